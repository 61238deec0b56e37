// TCP for MicroPython: what both runners give as the module `jsnet`. Bytes cross as hex: a string
// would end at its first NUL.
import net from "node:net";

// One read waits at a time; the socket is paused while nobody reads, as a real one's buffer fills.
export class Connection {
  constructor(socket) {
    this.socket = socket;
    this.received = Buffer.alloc(0);
    this.ended = false;
    this.wake = null;
    socket.pause();
    socket.on("data", (data) => {
      this.received = Buffer.concat([this.received, data]);
      socket.pause();
      this.ring();
    });
    socket.on("close", () => {
      this.ended = true;
      this.ring();
    });
    socket.on("error", () => {});
  }

  ring() {
    this.wake?.();
    this.wake = null;
  }

  async read(most) {
    if (!this.received.length && !this.ended) {
      this.socket.resume();
      await new Promise((wake) => (this.wake = wake));
    }
    const taken = this.received.subarray(0, most);
    this.received = this.received.subarray(taken.length);
    return taken.toString("hex");
  }

  // Resolves once the bytes were handed to the system: a peer that reads nothing holds it up.
  write(hex) {
    return new Promise((done, failed) => {
      if (this.ended || this.socket.destroyed) return failed(new Error("closed"));
      this.socket.write(Buffer.from(hex, "hex"), (error) => (error ? failed(error) : done()));
    });
  }

  close() {
    this.socket.destroy();
  }
}

// A socket once it is connected.
export const joined = (host, port) =>
  new Promise((done, failed) => {
    const socket = net.connect({ host, port, noDelay: true });
    socket.once("connect", () => done(socket));
    socket.once("error", failed);
  });

export const jsnet = { connect: async (host, port) => new Connection(await joined(host, port)) };
