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

/** What is asked for of a document. */
export type PartRequest = {
  /** Byte that it begins with. */
  readonly from: number;
  /** The byte after its last; null: all the rest. */
  readonly to: number | null;
  /** ETag of what is there already; with another one, all of the document comes (RFC 9110 §13.1.5). */
  readonly ifRange: string | null;
  readonly signal?: AbortSignal;
};

export type Part = {
  /** 200: the whole document; 206: what was asked for; 404, 416, 429 and 503 have no body. */
  readonly status: number;
  readonly etag: string | null;
  /** Seconds; null: nothing is said. */
  readonly retryAfter: number | null;
  /** Which byte of the document the body begins with. */
  readonly start: number;
  /** To be read to its end, or returned. */
  readonly body: AsyncGenerator<Uint8Array, void, undefined>;
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
  /**
   * A part of a document whose body has at most `maxBytes`; null: what is asked here has no such documents.
   * Throws as `document` does, for other statuses and before the body.
   */
  readonly part: ((path: string, maxBytes: number, request: PartRequest) => Promise<Part>) | null;
};
