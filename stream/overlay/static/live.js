// The live data: one WebSocket that asks for the next message when the last one is drawn, and comes back by itself.

const SILENT_MS = 2500; // the server answers twice a second; after this long it is gone
const RETRY_MS = [300, 600, 1200, 1500];

export class Live {
  /** `hear(message)` for each message, `changed()` when the connection comes or goes; `map` is the one to be sent. */
  constructor(hear, changed, map) {
    this.hear = hear;
    this.map = map;
    this.changed = changed;
    this.since = performance.now(); // when `connected` last changed
    this.connected = false;
    this.ever = false;
    this.tries = 0;
    setInterval(() => this.watch(), 250);
    this.open();
  }

  open() {
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.asked = performance.now();
    this.fresh = true;
    socket.onopen = () => this.next();
    socket.onclose = () => this.lost(socket);
    socket.onmessage = (event) => {
      this.asked = null;
      this.tries = 0;
      const message = parse(event.data);
      message.fresh = this.fresh; // the first of a connection: forget what an older server said
      this.fresh = false;
      this.become(true);
      this.hear(message);
    };
  }

  /** Ask for the next message. */
  next() {
    if (this.socket?.readyState === WebSocket.OPEN) {
      this.asked = performance.now();
      this.socket.send(`next ${this.map}`);
    }
  }

  watch() {
    if (this.asked !== null && performance.now() - this.asked > SILENT_MS) this.lost(this.socket);
  }

  lost(socket) {
    if (socket !== this.socket) return;
    this.socket = null;
    this.asked = null;
    socket.onclose = socket.onmessage = socket.onopen = null;
    socket.close();
    this.become(false);
    setTimeout(() => this.open(), RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)]);
  }

  become(connected) {
    if (connected !== this.connected) {
      this.connected = connected;
      this.since = performance.now();
    }
    this.ever ||= connected;
    this.changed();
  }
}

/** A message: u4 length, JSON, raw arrays; arrays become views of the received bytes. */
function parse(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const { now, parts } = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const message = { ...now, maps: [] };
  for (const { name, at, body } of parts) {
    for (const [key, value] of Object.entries(body)) {
      if (value && value.o !== undefined) body[key] = array(buffer, 4 + length + at + value.o, value);
    }
    if (name === "map") message.maps.push(body);
    else message[name] = body;
  }
  return message;
}

function array(buffer, offset, { t, s }) {
  const size = s.reduce((a, b) => a * b, 1);
  const view = t === "u1" ? new Uint8Array(buffer, offset, size) : new Float32Array(buffer, offset, size);
  view.shape = s;
  return view;
}
