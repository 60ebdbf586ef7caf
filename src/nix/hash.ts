// Placeholder type, replaced by its module.
export type NarHash = string & { readonly __brand: 'NarHash' };
