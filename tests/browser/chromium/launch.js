// The path of Chromium, and its options.

export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** Chromium's network requests at startup are switched off; the tests' certificates are self-signed. */
export const FLAGS = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--ignore-certificate-errors',
  '--proxy-server=direct://',
];
