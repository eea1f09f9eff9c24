//! The server's processing of JSON on the way in and out, without I/O.
//!
//! `cargo bench --bench protocol`. Reading a push is compared with the minimum cost of reading JSON: walking over the
//! same bytes once.

#[path = "support/changes.rs"]
mod changes;
#[path = "support/cpu_time.rs"]
mod cpu_time;

use std::hint::black_box;

use changes::{LOG_BEGINS, body, policy, push, stored};
use cpu_time::CpuTime;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mana_sync::protocol::merge::{OwnWrites, StoredChange, UnreadableChange};
use mana_sync::protocol::page::{Page, Remarks, WrittenChanges, encode_answer};
use mana_sync::protocol::push::read_push;
use mana_sync::protocol::{Cursor, Stamp};
use serde::de::IgnoredAny;

fn reading_a_push(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("push");
    for changes in [1, 10, 200, 10_000] {
        let body = body(changes);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_with_input(BenchmarkId::new("read and check", changes), &body, |bencher, body| {
            bencher.iter(|| read_push(black_box(body), None, policy(), usize::MAX));
        });
        group.bench_with_input(BenchmarkId::new("walk the JSON once", changes), &body, |bencher, body| {
            bencher.iter(|| serde_json::from_slice::<IgnoredAny>(black_box(body)));
        });
        let push = push(changes);
        group.bench_with_input(BenchmarkId::new("derive the row ids", changes), &push, |bencher, push| {
            bencher.iter(|| push.row_ids(black_box("user"), "todo"));
        });
    }
    group.finish();
}

/// Notes a change that the reader wrote, as the store does.
fn note(writes: &mut OwnWrites, change: &StoredChange) -> Result<(), UnreadableChange> {
    let record = (&*change.table, &*change.record);
    writes.add_record(record, change.at);
    for write in change.fields()? {
        writes.add_own(record, &write.name, (write.stamp, change.at), None);
    }
    Ok(())
}

fn page(changes: &[StoredChange], own: &[StoredChange]) -> Page {
    let mut writes = OwnWrites::default();
    for change in own {
        note(&mut writes, change).expect("the benchmark's own changes can be read");
    }
    let until = Cursor::after(changes.last().map_or(0, |change| change.at));
    let written = WrittenChanges::default();
    Page { changes: changes.to_vec(), own: writes, head: 1, until, has_more: true, written, excess: 0 }
}

fn writing_a_page(criterion: &mut Criterion<CpuTime>) {
    let changes = stored(1_000);
    // The device has itself written half of the records, later: nothing on the page is left out, but it has to be checked.
    let own: Vec<StoredChange> =
        changes.iter().step_by(2).map(|change| StoredChange { at: change.at + 1, ..change.clone() }).collect();
    let mut group = criterion.benchmark_group("page of 1,000 changes");
    let bytes =
        encode_answer(page(&changes, &[]), &Remarks::default()).expect("the benchmark's own page can be written").len();
    group.throughput(Throughput::Bytes(bytes as u64));
    group.bench_function("encode, of other devices only", |bencher| {
        bencher.iter_batched(
            || page(&changes, &[]),
            |page| encode_answer(page, &Remarks::default()),
            BatchSize::LargeInput,
        );
    });
    group.bench_function("encode, half the records written by the reader too", |bencher| {
        bencher.iter_batched(
            || page(&changes, &own),
            |page| encode_answer(page, &Remarks::default()),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn merging_a_delta(criterion: &mut Criterion<CpuTime>) {
    let changes = stored(1_000);
    let mut group = criterion.benchmark_group("merge of 1,000 changes");
    group.throughput(Throughput::Elements(changes.len() as u64));
    group.bench_function("note what the reader wrote", |bencher| {
        bencher.iter(|| {
            let mut own = OwnWrites::default();
            changes.iter().try_for_each(|change| note(&mut own, black_box(change))).map(|()| own)
        });
    });
    for (name, own) in [("view, reader wrote nothing", &[][..]), ("view, reader wrote all of the records", &changes)] {
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || page(&[], own).own,
                |own| changes.iter().filter(|change| own.view(black_box(change)).is_ok()).count(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn times(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("times");
    let (cursor, stamp) = (Cursor::after(LOG_BEGINS), policy().now);
    let (cursor_text, stamp_text) = (cursor.to_string(), stamp.to_string());
    group.bench_function("cursor: parse", |bencher| bencher.iter(|| Cursor::parse(black_box(&cursor_text))));
    group.bench_function("cursor: write", |bencher| bencher.iter(|| black_box(cursor).to_string()));
    group.bench_function("stamp: parse", |bencher| bencher.iter(|| Stamp::parse(black_box(&stamp_text))));
    group.bench_function("stamp: write", |bencher| bencher.iter(|| black_box(stamp).encode()));
    group.finish();
}

criterion_group! {
    name = benches;
    config = cpu_time::criterion();
    targets = reading_a_push, writing_a_page, merging_a_delta, times
}
criterion_main!(benches);
