// Runs once in the browser, when the page has loaded; the page's events call the functions of `flallm`.
(titles) => {
  const SECONDS_BEFORE_A_RECORDING = 3;
  const findVideo = () => document.querySelector("#signed-video video");

  window.flallm = {
    setLanguage: (language, ...others) => {
      document.documentElement.lang = language;
      document.title = titles[language];
      return [language, ...others];
    },

    showResult: (...inputs) => {
      // The sentence is below the video: keep both in view.
      const { top } = document.querySelector("#result").getBoundingClientRect();
      if (top > 0.7 * window.innerHeight || top < 0) document.querySelector("#signed-video").scrollIntoView();
      return inputs;
    },

    showSecond: (second) => {
      const video = findVideo();
      if (video) video.currentTime = second;
    },

    showCaptions: (text) => {
      const video = findVideo();
      if (!video) return;
      video.querySelectorAll("track.captions").forEach((track) => track.remove());
      if (!text) return;
      const track = Object.assign(document.createElement("track"), {
        className: "captions", kind: "subtitles", label: "FLaLLM", default: true,
        src: URL.createObjectURL(new Blob([text], { type: "text/vtt" })),
      });
      video.appendChild(track);
      track.track.mode = "showing";
    },

    // Video players find captions by the name of the video.
    saveCaptions: (text, suffix) => {
      const address = new URL(findVideo()?.currentSrc || document.baseURI);
      const isFile = ["http:", "https:"].includes(address.protocol);
      const file = isFile ? decodeURIComponent(address.pathname.split("/").pop()) : "";
      const link = Object.assign(document.createElement("a"), {
        href: URL.createObjectURL(new Blob([text], { type: "text/plain" })),
        download: `${file.replace(/\.[^.]*$/, "") || "captions"}.${suffix}`,
      });
      link.click();
    },
  };

  // Hands need a moment between the button and the first sign. Pressing it again before that cancels the recording.
  let ticking = null;
  const countDown = (button) => {
    const number = Object.assign(document.createElement("div"), { className: "countdown", role: "status" });
    let seconds = SECONDS_BEFORE_A_RECORDING;
    const stop = () => {
      clearInterval(ticking.timer);
      number.remove();
      ticking = null;
    };
    const tick = () => {
      seconds -= 1;
      number.textContent = seconds;
      if (seconds > 0 && button.isConnected) return;
      stop();
      if (button.isConnected) button.click();
    };
    number.textContent = seconds;
    document.querySelector("#signed-video").append(number);
    ticking = { timer: setInterval(tick, 1000), stop };
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("#signed-video .capture-button");
    // The click at the end of the countdown comes from here and is passed on to Gradio.
    if (!button?.querySelector("[title='start recording']") || !event.isTrusted) return;
    event.stopPropagation();
    if (ticking) ticking.stop();
    else countDown(button);
  }, true);

  // Gradio leaves these without a name for screen readers.
  const name = (part, text) => {
    if (part && text && part.ariaLabel !== text) part.ariaLabel = text;
  };
  const nameParts = () => {
    const result = document.querySelector("#result");
    if (result) result.ariaLive = "polite";
    const label = document.querySelector("#signed-video label")?.textContent.trim();
    name(findVideo(), label);
    name(document.querySelector("#signed-video progress"), label);
    for (const group of document.querySelectorAll("fieldset"))
      name(group, group.querySelector("[data-testid=block-info]")?.textContent.trim());
    for (const gallery of document.querySelectorAll(".gallery")) {
      const title = gallery.parentElement.querySelector(".label")?.textContent.trim();
      gallery.querySelectorAll("button").forEach((button, index) => name(button, `${title}: ${index + 1}`));
    }
  };
  document.documentElement.lang = "en"; // until the language is chosen
  new MutationObserver(nameParts).observe(document.body, { childList: true, subtree: true, characterData: true });
  nameParts();
}
