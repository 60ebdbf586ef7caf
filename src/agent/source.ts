// Where a run of the agent gets what it has to verify: the server (client.ts), or a host's bundle (bundle-source.ts). What
// comes from either is trusted alike: not at all.

export type Answer = {
  readonly status: number;
  readonly etag: string | null;
  readonly body: Buffer;
};

export type Request = {
  readonly method?: 'GET' | 'POST';
  readonly body?: string;
  readonly contentType?: string;
  readonly ifNoneMatch?: string;
  /** Statuses other than 2xx that the caller understands; others become errors here. */
  readonly expect?: readonly number[];
  readonly signal?: AbortSignal;
};

export type Source = {
  /** Base URLs of caches that NARs may also come from. */
  readonly upstreams: readonly string[];
  /** The whole answer to a path of the server's, at most `maxBytes`. @throws FleetError E_BODY_LIMIT, and others */
  readonly document: (path: string, maxBytes: number, request?: Request) => Promise<Answer>;
  /** The body of a 200, at most `maxBytes`. Throws as `document` does. */
  readonly stream: (
    path: string,
    maxBytes: number,
    signal?: AbortSignal,
  ) => AsyncGenerator<Uint8Array, void, undefined>;
};
