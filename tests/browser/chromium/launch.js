// Where Chromium is, and what of it is switched off.

export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** What Chromium would ask the world at its start is switched off; certificates of the tests sign themselves. */
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
