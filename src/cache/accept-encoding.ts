// An Accept-Encoding header → whether one coding may be used (RFC 9110 §12.5.3). What is not named is
// not used: a coding that nobody asked for is never sent.

/** Whether `header` names `coding`, with a weight above 0. */
export function accepts(header: string | string[] | undefined, coding: string): boolean {
  const items = [header ?? []].flat().join(',').toLowerCase().split(',');
  return items.some((item) => {
    const [name, ...parameters] = item.split(';').map((part) => part.trim());
    const weight = parameters.find((parameter) => parameter.startsWith('q='))?.slice(2);
    return name === coding && (weight === undefined || Number(weight) > 0);
  });
}
