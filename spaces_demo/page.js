// What happens in the browser alone. Runs once, when the page has loaded; the page's events call what `flallm` holds.
(titles) => {
  const findVideo = () => document.querySelector("#signed-video video");

  window.flallm = {
    setLanguage: (language, ...others) => {
      document.documentElement.lang = language;
      document.title = titles[language];
      return [language, ...others];
    },

    showResult: (...inputs) => {
      const result = document.querySelector("#result");
      if (result.getBoundingClientRect().top > 0.7 * window.innerHeight) result.scrollIntoView({ block: "center" });
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

    saveFile: (text, name) => {
      const link = Object.assign(document.createElement("a"), {
        href: URL.createObjectURL(new Blob([text], { type: "text/plain" })), download: name });
      link.click();
    },
  };

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
