import { fiveDevices } from './devices.js';
import { example } from './example.js';
import { lostAnswers, sentAgainOnce } from './lost.js';

/** The scenarios by name. */
export const SCENARIOS = {
  'five-devices': fiveDevices,
  'lost-answers': lostAnswers,
  'sent-again': sentAgainOnce,
  example,
};
