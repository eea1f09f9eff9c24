import { fiveDevices } from './devices.js';
import { example } from './example.js';
import { lostAnswers, sentAgainOnce } from './lost.js';

/** By the name that a run asks for. */
export const SCENARIOS = {
  'five-devices': fiveDevices,
  'lost-answers': lostAnswers,
  'sent-again': sentAgainOnce,
  example,
};
