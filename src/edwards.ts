// Points of edwards25519 (RFC 8032 §5.1) and scalars → sums of multiples, for what is public: the time that it takes
// depends on the scalars. @noble/ed25519 has the same formulas, written to be short: it reduces each product in ten
// operations on bigints, and checks every coordinate that it makes. Here sums of products are reduced at once, and
// nothing is worked out that is not looked at. Most processes verify two or three signatures, before anything is compiled:
// few operations are what counts. Refuses nothing: whoever decodes a point makes sure that it is on the curve.

/** A point: x = X/Z, y = Y/Z, T = XY/Z. Those of noble's `Point`, too. */
export type Coordinates = {
  readonly X: bigint;
  readonly Y: bigint;
  readonly Z: bigint;
  readonly T: bigint;
};

/** A point's multiples by 1, 3, 5, … 15. */
export type OddMultiples = readonly Addend[];

/** A point as `add` wants it. */
type Addend = {
  /** Y + X and Y - X. */
  readonly sum: bigint;
  readonly difference: bigint;
  readonly twiceZ: bigint;
  /** 2dT, with the d of the curve's equation: -x² + y² = 1 + dx²y². */
  readonly t: bigint;
};

const PRIME = 2n ** 255n - 19n;
const TWICE_D = 0x2406d9dc56dffce7198e80f2eef3d13000e0149a8283b156ebd69b9426b2f159n;
const IDENTITY: Coordinates = { X: 0n, Y: 1n, Z: 1n, T: 0n };
/** Bits of a digit. */
const WINDOW = 5;

/** For a point on the curve, with coordinates from 0 to the prime. */
export function oddMultiplesOf(point: Coordinates): OddMultiples {
  const twice = addendOf(double(point, true));
  const row = [point];
  while (row.length < 2 ** (WINDOW - 2)) row.push(add(row.at(-1) ?? point, twice, true));
  return row.map(addendOf);
}

/**
 * The sum of `scalar` times its point for all terms: X, Y and Z from 0 to the prime, without T. No scalar is negative.
 * All are gone through together (Straus), five bits at a time.
 */
export function sumOfMultiples(
  terms: readonly (readonly [scalar: bigint, OddMultiples])[],
): Omit<Coordinates, 'T'> {
  // What is added once the sum was doubled so often.
  const addends: Addend[][] = [];
  for (const [scalar, row] of terms) {
    digitsOf(scalar).forEach((digit, i) => {
      addends[i] ??= [];
      const multiple = row[Math.abs(digit) >> 1];
      if (digit !== 0 && multiple !== undefined)
        addends[i].push(digit < 0 ? negative(multiple) : multiple);
    });
  }
  let sum = IDENTITY;
  for (const here of addends.reverse()) {
    sum = double(sum, here.length > 0);
    here.forEach((addend, i) => {
      sum = add(sum, addend, i + 1 < here.length);
    });
  }
  return { X: reduce(sum.X), Y: reduce(sum.Y), Z: reduce(sum.Z) };
}

/** Whether this is the point that changes nothing it is added to. */
export function isIdentity({ X, Y, Z }: Omit<Coordinates, 'T'>): boolean {
  return reduce(X) === 0n && reduce(Y - Z) === 0n;
}

/**
 * `scalar` in odd digits from -15 to 15 with at least four zeros after each (wNAF), the lowest first.
 */
function digitsOf(scalar: bigint): Int8Array {
  const text = scalar.toString(2);
  const bit = (i: number): number => (text[text.length - 1 - i] === '1' ? 1 : 0);
  const digits = new Int8Array(text.length + 1);
  let carry = 0;
  for (let i = 0; i < digits.length; i++) {
    if (bit(i) === carry) continue;
    let digit = carry;
    for (let j = 0; j < WINDOW; j++) digit += bit(i + j) << j;
    carry = digit >> (WINDOW - 1);
    digits[i] = digit - (carry << WINDOW);
    i += WINDOW - 1;
  }
  return digits;
}

// Remainders are as `%` leaves them, negative ones too: each stands for its class, and is made positive at the end.

/**
 * Hisil, Wong, Carter, Dawson 2008, dbl-2008-hwcd, with all signs turned over. T is a product that only `add` looks at;
 * it is wrong where it is not wanted.
 */
function double({ X, Y, Z }: Coordinates, withT: boolean): Coordinates {
  const xx = X * X;
  const yy = Y * Y;
  const e = (2n * X * Y) % PRIME;
  const f = (yy - xx - 2n * Z * Z) % PRIME;
  const g = (yy - xx) % PRIME;
  const h = (-xx - yy) % PRIME;
  return {
    X: (e * f) % PRIME,
    Y: (g * h) % PRIME,
    Z: (f * g) % PRIME,
    T: withT ? (e * h) % PRIME : 0n,
  };
}

/** The same, add-2008-hwcd-3: holds for all points, also for equal ones. */
function add({ X, Y, Z, T }: Coordinates, other: Addend, withT: boolean): Coordinates {
  const a = (Y - X) * other.difference;
  const b = (Y + X) * other.sum;
  const c = T * other.t;
  const d = Z * other.twiceZ;
  const e = (b - a) % PRIME;
  const f = (d - c) % PRIME;
  const g = (d + c) % PRIME;
  const h = (b + a) % PRIME;
  return {
    X: (e * f) % PRIME,
    Y: (g * h) % PRIME,
    Z: (f * g) % PRIME,
    T: withT ? (e * h) % PRIME : 0n,
  };
}

function addendOf({ X, Y, Z, T }: Coordinates): Addend {
  return { sum: Y + X, difference: Y - X, twiceZ: 2n * Z, t: (T * TWICE_D) % PRIME };
}

function negative({ sum, difference, twiceZ, t }: Addend): Addend {
  return { sum: difference, difference: sum, twiceZ, t: -t };
}

function reduce(value: bigint): bigint {
  const rest = value % PRIME;
  return rest < 0n ? rest + PRIME : rest;
}
