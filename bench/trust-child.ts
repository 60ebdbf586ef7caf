// Checks an offer as an agent does, once, in a process that did nothing before; prints the CPU time of it, in
// milliseconds. Arguments: root, offer, host.
import { readFileSync } from 'node:fs';
import { parseEnvelope } from '../src/manifest/dsse.ts';
import { parseOffer } from '../src/manifest/offer.ts';
import { verifyInitialRoot } from '../src/manifest/root.ts';
import { verifyOfferedLog, verifyOfferedManifest } from '../src/manifest/verify-offer.ts';

const [rootFile = '', offerFile = '', host = ''] = process.argv.slice(2);
const envelope = readFileSync(rootFile, 'utf8');
const root = { root: verifyInitialRoot(parseEnvelope(envelope)), envelope };
const bytes = readFileSync(offerFile);
const now = Math.floor(Date.now() / 1000);
const before = process.cpuUsage();
const offer = parseOffer(bytes);
const log = verifyOfferedLog(offer, root, null, now);
const expect = { host, system: 'x86_64-linux', floor: null };
verifyOfferedManifest(offer, root, log, expect, now);
const { user, system } = process.cpuUsage(before);
process.stdout.write(String((user + system) / 1000));
