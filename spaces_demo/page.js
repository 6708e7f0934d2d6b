// Runs once in the browser, when the page has loaded; the page's events call the functions of `flallm`.
(words) => {
  const SECONDS_BEFORE_A_RECORDING = 3;
  const LARGE_TEXT = "flallm-large-text"; // under this name, the browser remembers whether the text is large
  const findVideo = () => document.querySelector("#signed-video video");
  let playbackSpeed = 1;
  document.addEventListener("loadeddata", ({ target }) => {
    if (target === findVideo()) target.playbackRate = playbackSpeed;
  }, true);

  window.flallm = {
    setLanguage: (language, ...others) => {
      document.documentElement.lang = language;
      document.title = words[language].title;
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

    playAt: (speed) => {
      playbackSpeed = speed;
      const video = findVideo();
      if (video) video.playbackRate = speed;
      return speed;
    },

    enlargeText: (isLarge) => {
      document.querySelector(".gradio-container").classList.toggle("large-text", isLarge);
      localStorage.setItem(LARGE_TEXT, isLarge ? "1" : "");
      return isLarge;
    },

    rememberedText: () => window.flallm.enlargeText(Boolean(localStorage.getItem(LARGE_TEXT))),

    // Only words leave the page this way. Returns what to say of it.
    shareSentence: async (language) => {
      const { title, share_limit, share_copied, share_failed } = words[language];
      const sentences = [...document.querySelectorAll("#result .sentence, #result .sentences p")];
      const text = [...sentences.map((each) => each.textContent.trim()), share_limit].join("\n");
      try {
        if (navigator.share) {
          await navigator.share({ title, text });
          return "";
        }
        await navigator.clipboard.writeText(text);
        return share_copied;
      } catch (error) {
        return error.name === "AbortError" ? "" : share_failed;
      }
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
