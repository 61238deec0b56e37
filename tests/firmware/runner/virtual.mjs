// Time that passes as fast as the firmware lives through it.
//
// `Date.now` and `setTimeout` are replaced, so that MicroPython's ticks, its asyncio and the watchdog
// jump from one timer to the next. Time stands while anything that belongs to this instant is not
// over: an answer of the broker or of the world outside that is due (`hold`, `release`). Sockets are
// as real as ever.
import { Connection, joined } from "./net.mjs";

const real = { setTimeout: globalThis.setTimeout, now: Date.now.bind(Date) };
const PATIENCE_MS = 3_000;
const TURNS_A_COLLECTION = 1_000;

const timers = []; // a heap by due time, then by order
const cancelled = new Set();
let now = 0;
let limit = 0;
let order = 0;
let holds = 0;
let wake = null;
export const counts = { impatient: 0 };

const before = (a, b) => a.due < b.due || (a.due === b.due && a.order < b.order);

function push(timer) {
  let place = timers.push(timer) - 1;
  while (place > 0) {
    const parent = (place - 1) >> 1;
    if (!before(timer, timers[parent])) break;
    timers[place] = timers[parent];
    place = parent;
  }
  timers[place] = timer;
}

function pop() {
  const first = timers[0];
  const last = timers.pop();
  if (timers.length) {
    let place = 0;
    for (;;) {
      let child = 2 * place + 1;
      if (child >= timers.length) break;
      if (child + 1 < timers.length && before(timers[child + 1], timers[child])) child += 1;
      if (!before(timers[child], last)) break;
      timers[place] = timers[child];
      place = child;
    }
    timers[place] = last;
  }
  return first;
}

// Begin at `startMs`, with ticks at `ticksMs`: what is returned is called when MicroPython is loaded.
export function install(startMs, ticksMs) {
  now = startMs - ticksMs;
  Date.now = () => now;
  globalThis.setTimeout = (work, ms, ...args) => {
    order += 1;
    push({ due: now + Math.max(0, Math.ceil(ms || 0)), order, work: () => work(...args) });
    return order;
  };
  globalThis.clearTimeout = (id) => id && cancelled.add(id);
  return () => (now = limit = startMs);
}

export const hold = () => (holds += 1);
export function release() {
  holds = Math.max(0, holds - 1);
  wake?.();
}
export function goOnTo(ms) {
  limit = ms;
  wake?.();
}

const turn = () => new Promise((done) => setImmediate(done));
const moment = (ms) =>
  new Promise((done) => {
    wake = done;
    real.setTimeout(done, ms);
  });

// Live for ever; `reached(now)` tells that time stands at the limit until `goOnTo` moves it.
export async function run(reached) {
  let heldSince = null;
  let told = null; // the limit that was told last
  for (let turns = 1; ; turns += 1) {
    await turn();
    // What JavaScript has not let go of fills a table of MicroPython's that never shrinks.
    if (turns % TURNS_A_COLLECTION === 0) globalThis.gc?.();
    const due = timers.length ? timers[0].due : Infinity;
    if (due > now) {
      if (holds) {
        heldSince ??= real.now();
        if (real.now() - heldSince < PATIENCE_MS) {
          await moment(2);
          continue;
        }
        counts.impatient += 1;
        holds = 0;
      }
      heldSince = null;
      if (due > limit) {
        now = Math.max(now, limit);
        if (told !== limit) {
          told = limit;
          reached(now);
        }
        await moment(5);
        continue;
      }
      now = due;
    }
    const timer = pop();
    if (!cancelled.delete(timer.order)) timer.work();
  }
}

const ASKS = new Set([1, 3, 8, 12]); // CONNECT, PUBLISH with QoS 1, SUBSCRIBE, PINGREQ
const ANSWERS = new Set([2, 4, 9, 13]);

// Kinds of the whole MQTT packets in a stream of bytes.
class Packets {
  rest = Buffer.alloc(0);

  *take(piece) {
    this.rest = Buffer.concat([this.rest, piece]);
    for (;;) {
      let size = 0;
      let place = 1;
      do {
        if (place >= this.rest.length) return;
        size |= (this.rest[place] & 127) << (7 * (place - 1));
        place += 1;
      } while (this.rest[place - 1] & 128);
      if (this.rest.length < place + size) return;
      yield this.rest[0] >> 4;
      this.rest = this.rest.subarray(place + size);
    }
  }
}

// A connection to the broker for whose answers time stands, until the network is lost under it.
class Watched extends Connection {
  static all = new Set();

  constructor(socket) {
    super(socket);
    this.lost = false;
    this.open = 0;
    this.sent = new Packets();
    this.came = new Packets();
    Watched.all.add(this);
    socket.prependListener("data", (piece) => {
      for (const kind of this.came.take(piece)) if (ANSWERS.has(kind)) this.answered();
    });
    socket.on("close", () => this.over());
  }

  answered() {
    if (this.open) {
      this.open -= 1;
      release();
    }
  }

  over() {
    while (this.open) this.answered();
    Watched.all.delete(this);
    wake?.();
  }

  write(hex) {
    if (this.lost) return Promise.resolve();
    for (const kind of this.sent.take(Buffer.from(hex, "hex"))) {
      if (ASKS.has(kind)) {
        this.open += 1;
        hold();
      }
    }
    // The broker's word may be waiting: it is read whether or not anybody asks just now.
    this.socket.resume();
    return super.write(hex);
  }

  lose() {
    this.lost = true;
    this.socket.removeAllListeners("close");
    this.socket.removeAllListeners("data");
    this.socket.destroy();
    this.over();
  }

  close() {
    super.close();
    if (this.lost) {
      this.ended = true;
      this.ring();
    }
  }
}

export const loseNetwork = () => [...Watched.all].forEach((connection) => connection.lose());
export const jsnet = {
  connect: async (host, port) => {
    hold();
    try {
      return new Watched(await joined(host, port));
    } finally {
      release();
    }
  },
};
