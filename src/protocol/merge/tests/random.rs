//! Devices that do anything in any order, and end up with the result of the rules (G3).

use super::*;

/// An action of one device.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// Writes one or more fields at the cluster's time plus `ahead`, in milliseconds, and its own clock's error, and
    /// pushes at once: no server can help a device that takes in a value with the very stamp of its edit before pushing
    /// it.
    Write {
        device: usize,
        record: usize,
        kind: Kind,
        ahead: i64,
        limit: usize,
        lost: bool,
    },
    Push {
        device: usize,
        limit: usize,
        lost: bool,
    },
    Pull {
        device: usize,
        limit: usize,
    },
    /// Reads a page of its stream, opening it if there is none.
    Stream {
        device: usize,
        limit: usize,
    },
    /// Breaks its stream.
    Break {
        device: usize,
    },
    /// Loses its database.
    Lose {
        device: usize,
    },
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Insert,
    Unstamped,
    One,
    Two,
    Delete,
    Undelete,
}

pub(super) const DEVICES: usize = 4;

pub(super) fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES;
    let limit = || prop::sample::select(vec![1usize, 2, 3, 100]);
    let kind = prop::sample::select(vec![
        Kind::Insert,
        Kind::Unstamped,
        Kind::One,
        Kind::One,
        Kind::One,
        Kind::Two,
        Kind::Delete,
        Kind::Undelete,
    ]);
    let write = (device(), 0usize..2, kind, 0i64..3, limit(), any::<bool>()).prop_map(
        |(device, record, kind, ahead, limit, lost)| Step::Write { device, record, kind, ahead, limit, lost },
    );
    let push = (device(), limit(), any::<bool>()).prop_map(|(device, limit, lost)| Step::Push { device, limit, lost });
    let pull = (device(), limit()).prop_map(|(device, limit)| Step::Pull { device, limit });
    let stream = (device(), limit()).prop_map(|(device, limit)| Step::Stream { device, limit });
    let breaks = device().prop_map(|device| Step::Break { device });
    let lose = device().prop_map(|device| Step::Lose { device });
    prop_oneof![6 => write, 4 => push, 3 => pull, 3 => stream, 1 => breaks, 1 => lose]
}

pub(super) fn perform(step: &Step, tick: usize, now: i64, skews: &[i64], devices: &mut [Device], log: &mut Log) {
    match *step {
        Step::Pull { device, limit } => drop(devices[device].pull(log, limit)),
        Step::Push { device, limit, lost } => devices[device].push(log, now, limit, lost),
        Step::Stream { device, limit } => drop(devices[device].read_stream(log, limit)),
        Step::Break { device } => devices[device].stream = None,
        Step::Lose { device } => {
            let lost = &devices[device];
            devices[device] =
                Device { clock: lost.clock, made: lost.made.clone(), ..Device::new(&lost.name, lost.engine) };
        }
        Step::Write { device, record, kind, ahead, limit, lost } => {
            let time = now + ahead + skews[device];
            write(&mut devices[device], ["r", "s"][record], kind, tick, time);
            devices[device].push(log, now, limit, lost);
        }
    }
}

pub(super) fn write(device: &mut Device, record: &str, kind: Kind, tick: usize, time: i64) {
    let is_known = device.records.contains_key(record);
    let value = || json!(tick);
    match kind {
        Kind::Unstamped => device.write_unstamped(&format!("{}-{tick}", device.name), value()),
        Kind::Insert | Kind::One | Kind::Two if !is_known => {
            device.write(record, Op::Insert, &[("f", value()), ("g", value())], time);
        }
        Kind::Insert | Kind::One => {
            // Sometimes one of the device's own unstamped records, if there is any.
            let own = device.records.keys().find(|key| key.starts_with(&device.name) && tick.is_multiple_of(3));
            let record = own.cloned().unwrap_or(record.to_owned());
            device.write(&record, Op::Update, &[("f", value())], time);
        }
        Kind::Two => device.write(record, Op::Update, &[("f", value()), ("g", value())], time),
        Kind::Delete if is_known => {
            let stamp = json!(Stamp::from_millis(time).max(device.clock).to_string());
            device.write(record, Op::Delete, &[("deletedAt", stamp)], time);
        }
        Kind::Undelete if is_known => device.write(record, Op::Update, &[("deletedAt", Value::Null)], time),
        Kind::Delete | Kind::Undelete => {}
    }
}

/// Removes the values of stamp members, which differ on a device whose clock is ahead.
pub(super) fn without_stamps(mut records: Records) -> Records {
    for fields in records.values_mut() {
        fields.remove("updatedAt");
        fields.entry("deletedAt".into()).and_modify(|at| *at = (at != "null").to_string());
    }
    records
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    /// Tied and skewed stamps, lost answers, lost databases, pages of any size, any interleaving of writes, pushes and
    /// pulls: all devices end up with the result of the rules, and so does a fresh one.
    #[test]
    fn existing_clients_converge_on_what_the_rules_give(steps in prop::collection::vec(step(), 1..70), skews in prop::array::uniform4(prop::sample::select(vec![0, 0, -7_200_000, 60_000, 3_600_000]))) {
        let mut devices: Vec<Device> = (0..DEVICES).map(|n| Device::new(&format!("d{n}"), Engine::ByStamps)).collect();
        let mut log = Log::default();
        for (tick, step) in steps.iter().enumerate() {
            // Time advances slowly, so that stamps tie across devices.
            perform(step, tick, NOW + tick as i64 / 8 * 3, &skews, &mut devices, &mut log);
        }
        for _ in 0..2 {
            for device in &mut devices {
                while device.stream.is_some() && device.read_stream(&log, 2) {}
                device.push(&mut log, NOW + 1_000, 2, false);
                while device.pull(&log, 2) {}
            }
        }
        devices.push(Device::new("fresh", Engine::ByStamps));
        while devices[DEVICES].pull(&log, 1) {}
        let expected = without_stamps(log.fold());
        for device in &devices {
            prop_assert_eq!(&without_stamps(device.values()), &expected, "{} with clocks {:?}", device.name, skews);
        }
    }
}
