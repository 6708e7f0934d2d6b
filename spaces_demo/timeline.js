// A word's button makes the video jump to its second, or repeats its part; the word at the playing second is marked.
() => {
  const SHORTEST_PART_IN_SECONDS = 1;
  const TOLERANCE_IN_SECONDS = 0.5; // the browser tells the time four times a second
  const findVideo = () => document.querySelector("#signed-video video");
  const isCalm = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const wantsToRepeat = () => Boolean(document.querySelector("#repeat-part input")?.checked);
  let repeated = null; // the part that is played again and again

  const playPart = (video) => {
    video.currentTime = repeated.from;
    video.play().catch(() => {}); // another click, or a video that is taken away, breaks it off
  };

  // The sign may be longer than the place where the model looked.
  const widened = ({ from, to }) => {
    const missing = Math.max(0, SHORTEST_PART_IN_SECONDS - (to - from)) / 2;
    return { from: Math.max(0, Number(from) - missing), to: Number(to) + missing };
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest(".timeline button[data-seconds]");
    const video = findVideo();
    if (!button || !video) return;
    repeated = wantsToRepeat() ? widened(button.closest("[data-from]").dataset) : null;
    if (repeated) playPart(video);
    else video.currentTime = Number(button.dataset.seconds);
    video.scrollIntoView({ block: "nearest", behavior: isCalm() ? "auto" : "smooth" });
    const status = button.closest(".timeline").querySelector(".status");
    const text = repeated ? status.dataset.repeated : status.dataset.jumped;
    status.textContent = text.replace("[time]", button.dataset.time);
  });

  // Who ticks it off, goes elsewhere in the video, or takes another one, has seen enough.
  const repeat = (event) => {
    const video = findVideo();
    if (!repeated || event.target !== video) return;
    const now = video.currentTime;
    const isElsewhere = now < repeated.from - TOLERANCE_IN_SECONDS || now > repeated.to + TOLERANCE_IN_SECONDS;
    if (event.type === "loadeddata" || !wantsToRepeat() || (event.type === "seeked" && isElsewhere)) repeated = null;
    else if (now >= repeated.to || event.type === "ended") playPart(video);
  };
  for (const name of ["timeupdate", "ended", "seeked", "loadeddata"]) document.addEventListener(name, repeat, true);

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
