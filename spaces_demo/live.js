// Captions while a person signs, see live.py. Runs once in the browser, when the page has loaded.
(words) => {
  const PICTURES_A_SECOND = 25, WIDTH_IN_PIXELS = 480, QUALITY = 0.85, MOST_BYTES_ON_THE_WAY = 400_000;
  const find = (name) => document.querySelector(`#live .${name}`);
  let session = null; // the camera, the WebSocket, and what `stopLive` waits for

  const say = (text) => { find("live-status").textContent = text; };

  const show = ({ piece, text, sureness, is_final }) => {
    find("live-caption").textContent = text;
    let item = find(`piece-${piece}`);
    if (!item) {
      item = Object.assign(document.createElement("li"), { className: `piece-${piece}`, dir: "auto" });
      find("live-sentences").append(item);
    }
    if (is_final && !text) item.remove();
    // A screen reader is told each sentence once, when it has ended.
    item.setAttribute("aria-hidden", String(!is_final));
    item.classList.toggle("final", is_final);
    item.textContent = sureness ? `${text} (${sureness})` : text;
  };

  const end = (captions) => {
    if (!session) return;
    session.camera?.getTracks().forEach((track) => track.stop());
    session.socket?.close();
    find("live-picture").srcObject = null;
    document.querySelector("#live").classList.remove("running");
    session.ended(captions);
    session = null;
  };

  const sendPictures = (mine, video) => {
    const canvas = document.createElement("canvas");
    const began = performance.now();
    let last = -Infinity, isBusy = false;
    const look = (now) => {
      if (session !== mine) return;
      video.requestVideoFrameCallback(look);
      const seconds = Math.max(0, now - began) / 1000;
      const isTooMuch = isBusy || mine.socket.bufferedAmount > MOST_BYTES_ON_THE_WAY;
      if (isTooMuch || seconds - last < 0.9 / PICTURES_A_SECOND || !video.videoWidth) return;
      last = seconds;
      isBusy = true;
      canvas.width = Math.min(WIDTH_IN_PIXELS, video.videoWidth);
      canvas.height = Math.round((canvas.width * video.videoHeight) / video.videoWidth);
      canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
      canvas.toBlob(async (picture) => {
        const head = new DataView(new ArrayBuffer(8));
        head.setFloat64(0, seconds);
        const message = await new Blob([head.buffer, picture]).arrayBuffer();
        isBusy = false;
        if (session === mine && mine.socket.readyState === WebSocket.OPEN) mine.socket.send(message);
      }, "image/jpeg", QUALITY);
    };
    video.requestVideoFrameCallback(look);
  };

  window.flallm.startLive = async (language, hand) => {
    if (session) return [];
    const mine = session = {};
    mine.end = new Promise((resolve) => { mine.ended = resolve; });
    find("live-sentences").replaceChildren();
    find("live-caption").textContent = "";
    say(words[language].live_starting);
    const video = find("live-picture");
    video.ariaLabel = words[language].live_picture;
    try {
      const size = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: PICTURES_A_SECOND } };
      mine.camera = await navigator.mediaDevices.getUserMedia({ video: size, audio: false });
      video.srcObject = mine.camera;
      await video.play();
    } catch {
      say(words[language].live_error_camera);
      end(null);
      return [];
    }
    document.querySelector("#live").classList.add("running");
    const address = new URL("live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    mine.socket = new WebSocket(address);
    mine.socket.onopen = () => {
      mine.socket.send(JSON.stringify({ language, left_handed: hand }));
      say(words[language].live_running);
      sendPictures(mine, video);
    };
    let last = words[language].live_error_connection, captions = null;
    mine.socket.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      if (message.problem) last = `⚠ ${message.problem}`;
      else if (message.captions) [captions, last] = [message.captions, words[language].live_ended];
      else show(message);
    };
    mine.socket.onclose = () => {
      if (session !== mine) return;
      say(last);
      end(captions);
    };
    return [];
  };

  // Waits for the last sentence. Returns the captions, or empty ones if there are none.
  window.flallm.stopLive = async (language) => {
    const mine = session;
    let captions = null;
    if (mine?.socket?.readyState === WebSocket.OPEN) {
      say(words[language].live_ending);
      mine.socket.send("end");
      captions = await mine.end;
    } else end(null);
    return [captions?.txt ?? "", captions?.srt ?? "", captions?.vtt ?? ""];
  };
}
