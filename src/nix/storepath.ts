// Placeholder type, replaced by its module.
export type StorePath = string & { readonly __brand: 'StorePath' };
