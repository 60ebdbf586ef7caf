// The proxy that the environment names, for all connections of the agent. Refuses what is no HTTP proxy, by the name of the
// variable alone: its value may hold a password.
import { FleetError } from '../errors.ts';

/** By the names that both of our clients know; what is not set is left out. */
export type Proxies = {
  readonly HTTP_PROXY?: string;
  readonly HTTPS_PROXY?: string;
  readonly NO_PROXY?: string;
};

type Environment = Readonly<Record<string, string | undefined>>;

/** Lower case first, as everywhere. @throws FleetError E_PROXY */
export function readProxies(env: Environment = process.env): Proxies {
  const http = proxyOf(env, 'http_proxy');
  const https = proxyOf(env, 'https_proxy');
  const none = env['no_proxy'] || env['NO_PROXY'];
  return {
    ...(http === undefined ? {} : { HTTP_PROXY: http }),
    ...(https === undefined ? {} : { HTTPS_PROXY: https }),
    ...(none ? { NO_PROXY: none } : {}),
  };
}

function proxyOf(env: Environment, lower: string): string | undefined {
  for (const name of [lower, lower.toUpperCase()]) {
    const value = env[name];
    if (value === undefined || value === '') continue;
    const isUrl = URL.canParse(value) && /^https?:$/.test(new URL(value).protocol);
    if (!isUrl) throw new FleetError('E_PROXY', `${name} is not the URL of an HTTP proxy`);
    return value;
  }
  return undefined;
}
