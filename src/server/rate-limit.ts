// Failures by address → whether one more is answered as such, or told to wait: a bucket of 20 for each
// address (of IPv6 the /64, which is what one customer has), filled by one every three seconds. Only
// failures count, so a good token is never kept out by its neighbours' bad ones.

const BURST = 20;
const SECONDS_EACH = 3;
/** Beyond, the address that failed longest ago is forgotten: memory is bounded, and it has waited. */
const MAX_ADDRESSES = 10_000;

type Bucket = { left: number; at: number };

export class FailureLimit {
  readonly #buckets = new Map<string, Bucket>();

  /** Notes a failure at `now` (POSIX seconds); returns 0, or for how many seconds to wait. */
  failed(address: string, now: number): number {
    const network = networkOf(address);
    const old = this.#buckets.get(network) ?? { left: BURST, at: now };
    // A clock that goes back fills nothing.
    const filled = Math.max(0, now - old.at) / SECONDS_EACH;
    const left = Math.min(BURST, old.left + filled);
    this.#buckets.delete(network);
    this.#buckets.set(network, { left: Math.max(0, left - 1), at: now });
    if (this.#buckets.size > MAX_ADDRESSES) {
      const [oldest] = this.#buckets.keys();
      if (oldest !== undefined) this.#buckets.delete(oldest);
    }
    return left >= 1 ? 0 : Math.ceil((1 - left) * SECONDS_EACH);
  }

  get size(): number {
    return this.#buckets.size;
  }
}

/** What one customer has: an IPv4 address, or a /64 of IPv6. */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1];
  if (mapped !== undefined) return mapped;
  if (!address.includes(':')) return address;
  const [head = '', tail = ''] = address.split('%')[0]?.split('::') ?? [];
  const groups = head === '' ? [] : head.split(':');
  if (address.includes('::')) {
    const last = tail === '' ? [] : tail.split(':');
    while (groups.length + last.length < 8) groups.push('0');
    groups.push(...last);
  }
  return groups
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
