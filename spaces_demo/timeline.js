// A word's button makes the video jump to its second; the word at the playing second is marked.
() => {
  const findVideo = () => document.querySelector("#signed-video video");
  const isCalm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".timeline button[data-seconds]");
    const video = findVideo();
    if (!button || !video) return;
    video.currentTime = Number(button.dataset.seconds);
    video.scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
    const status = button.closest(".timeline").querySelector(".status");
    status.textContent = status.dataset.text.replace("[time]", button.dataset.time);
  });

  const follow = (event) => {
    const video = findVideo();
    if (event.target !== video) return;
    const now = video.currentTime;
    for (const part of document.querySelectorAll(".timeline [data-from]")) {
      const [from, to] = [Number(part.dataset.from), Number(part.dataset.to)];
      const isNow = from <= now && now < to;
      const isPicture = part.classList.contains("picture");
      part.classList.toggle(isPicture ? "is-playing" : "is-now", isNow);
      if (isPicture) part.querySelector(".playhead").style.left = `${(100 * (now - from)) / (to - from)}%`;
    }
  };
  for (const name of ["timeupdate", "seeked"]) document.addEventListener(name, follow, true);
}
