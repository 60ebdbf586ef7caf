// The proxy of line.ts as a process: TCP connections to a port of its own → to the target's, as over a line with a delay
// and a rate. Arguments: host and port of the target, milliseconds of delay each way, bits a second. Says its port, then
// answers each message `counts` with what went over the line since the one before.
//
// Each direction is one queue for all connections, emptied at the line's rate in quanta, the connections in turns. What
// left it arrives `delay` later. A connection has at most twice the line's product of rate and round trip in it, else its
// sender is not read on. A connect costs a round trip, as the handshake does: nothing of it leaves before.
import { connect, createServer, type Socket } from 'node:net';

const [host = '', port = '', delayText = '', rateText = ''] = process.argv.slice(2);
const delay = Number(delayText);
const bytesPerMs = Number(rateText) / 8 / 1000;
const QUANTUM = Math.max(1448, Math.floor(bytesPerMs / 4));
const WINDOW = Math.max(65_536, Math.ceil(2 * bytesPerMs * 2 * delay));
// What an idle line may send at once, and what a busy one may make up for after its process had to wait.
const IDLE_BYTES = bytesPerMs + QUANTUM;
const LATE_BYTES = 100 * bytesPerMs;

type Piece = { readonly bytes: Buffer | null; readonly due: number };

/** One way of one connection. Its end is a piece as well, without bytes. */
class Way {
  /** Read of the sender, not on the line yet. */
  readonly #waiting: Buffer[] = [];
  #waitingBytes = 0;
  readonly #flying: Piece[] = [];
  #inLine = 0;
  #ended = false;
  #endSent = false;
  #blocked = false;
  readonly #notBefore: number;
  readonly #from: Socket;
  readonly #to: Socket;

  constructor(from: Socket, to: Socket, notBefore: number, onBytes: (bytes: Buffer) => void) {
    this.#from = from;
    this.#to = to;
    this.#notBefore = notBefore;
    from.on('data', (bytes: Buffer) => {
      onBytes(bytes);
      this.#waiting.push(bytes);
      this.#waitingBytes += bytes.length;
      this.#inLine += bytes.length;
      if (this.#inLine >= WINDOW) from.pause();
      wake();
    });
    from.on('close', () => this.#end());
    from.on('end', () => this.#end());
    to.on('drain', () => {
      this.#blocked = false;
      wake();
    });
  }

  #end(): void {
    this.#ended = !this.#endSent;
    wake();
  }

  /** Puts at most `budget` bytes on the line; returns how many. */
  send(now: number, budget: number): number {
    if (now < this.#notBefore) return 0;
    const first = this.#waiting[0];
    if (first === undefined) {
      if (this.#ended) {
        this.#flying.push({ bytes: null, due: now + delay });
        this.#ended = false;
        this.#endSent = true;
      }
      return 0;
    }
    const bytes = first.subarray(0, Math.min(QUANTUM, budget));
    if (bytes.length === first.length) this.#waiting.shift();
    else this.#waiting[0] = first.subarray(bytes.length);
    this.#waitingBytes -= bytes.length;
    this.#flying.push({ bytes, due: now + delay });
    return bytes.length;
  }

  /** Hands over what has arrived by now. */
  arrive(now: number): void {
    let piece = this.#flying[0];
    const arrived: Buffer[] = [];
    while (piece !== undefined && piece.due <= now && !this.#blocked) {
      this.#flying.shift();
      if (piece.bytes === null) {
        this.#hand(arrived.splice(0));
        this.#to.end();
      } else arrived.push(piece.bytes);
      piece = this.#flying[0];
    }
    this.#hand(arrived);
  }

  #hand(arrived: readonly Buffer[]): void {
    if (arrived.length === 0 || this.#to.destroyed) return;
    const bytes = Buffer.concat(arrived);
    this.#inLine -= bytes.length;
    if (!this.#to.write(bytes)) this.#blocked = true;
    if (this.#inLine < WINDOW) this.#from.resume();
  }

  get waits(): boolean {
    return this.#waitingBytes > 0;
  }

  get isBusy(): boolean {
    return this.waits || this.#flying.length > 0 || this.#ended;
  }
}

/** All connections' ways in one direction, which share the line. */
class Direction {
  readonly ways = new Set<Way>();
  bytes = 0;
  #credit = 0;
  #isFull = false;
  #last = performance.now();

  tick(now: number): void {
    this.#credit += (now - this.#last) * bytesPerMs;
    this.#last = now;
    this.#credit = Math.min(this.#credit, this.#isFull ? LATE_BYTES : IDLE_BYTES);
    for (let sent = -1; sent !== 0 && this.#credit >= 1; ) {
      sent = 0;
      for (const way of this.ways) {
        const some = this.#credit >= 1 ? way.send(now, Math.floor(this.#credit)) : 0;
        sent += some;
        this.#credit -= some;
        this.bytes += some;
      }
    }
    this.#isFull = [...this.ways].some((way) => way.waits);
    for (const way of this.ways) way.arrive(now);
  }
}

const up = new Direction();
const down = new Direction();
let requests = 0;
let connections = 0;
let woken = false;

function wake(): void {
  if (!woken) setTimeout(tick, 1);
  woken = true;
}

function tick(): void {
  woken = false;
  const now = performance.now();
  up.tick(now);
  down.tick(now);
  const busy = [...up.ways, ...down.ways].some((way) => way.isBusy);
  if (busy) wake();
}

/** Counts the request lines of HTTP/1.1 in what a client sends; no body of ours or Nix's holds one. */
function requestCounter(): (bytes: Buffer) => void {
  let rest = '';
  return (bytes) => {
    const text = rest + bytes.toString('latin1');
    const end = text.lastIndexOf('\n') + 1;
    rest = text.slice(end).slice(-4096);
    requests += text.slice(0, end).match(/^[A-Z]+ \S+ HTTP\/1\.[01]\r$/gm)?.length ?? 0;
  };
}

const server = createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
  connections++;
  const target = connect({ host, port: Number(port), allowHalfOpen: true, noDelay: true });
  const there = new Way(client, target, performance.now() + 2 * delay, requestCounter());
  const back = new Way(target, client, 0, () => {});
  up.ways.add(there);
  down.ways.add(back);
  for (const socket of [client, target]) {
    socket.on('error', () => {});
    socket.on('close', () => {
      up.ways.delete(there);
      // What the target sent before it went is still on the line.
      if (socket === target) return;
      down.ways.delete(back);
      target.destroy();
    });
  }
});
server.listen(0, '127.0.0.1', () =>
  process.send?.({ port: (server.address() as { port: number }).port }),
);

process.on('message', () => {
  process.send?.({ down: down.bytes, up: up.bytes, requests, connections });
  [down.bytes, up.bytes, requests, connections] = [0, 0, 0, 0];
});
process.on('disconnect', () => process.exit());
