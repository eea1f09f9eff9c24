use super::super::Tables;
use super::*;

fn part(app: &str, last: i64) -> Part {
    let range = LogRange { log: LogId::of(UserKey::of("u"), app), after: 0, last };
    Part { app: app.into(), range }
}

fn changed(until: i64, bytes: usize) -> Changed {
    let tables: Tables = ["t".repeat(bytes).into()].into_iter().collect();
    Changed { by_client: vec![("phone".into(), tables)], until, bytes }
}

fn asking(parts: &[Part]) -> Answer {
    Answer { recent: Recent { rest: parts.to_vec(), ..Recent::default() }, bytes: 0 }
}

#[test]
fn an_answer_takes_what_is_told_at_once_and_leaves_the_rest() {
    let user = UserKey::of("u");
    let mut answer = asking(&[part("a", 100), part("b", 100), part("c", 100)]);
    answer.take(user, [changed(60, MAX_NAMES - 10), changed(100, 20), changed(100, 5)]);
    let left: Vec<(&str, i64)> = answer.recent.rest.iter().map(|part| (&*part.app, part.range.after)).collect();
    assert_eq!(left, [("a", 60), ("b", 0)], "one was read in part, one had no place, one is done");
    assert_eq!(answer.recent.wakeups.iter().map(Wakeup::last).collect::<Vec<_>>(), [60, 100]);
    assert!(answer.wants_more());
    answer.take(user, [changed(100, 5), changed(100, 2_000)]);
    assert_eq!(answer.recent.rest.len(), 1);
    answer.recent.rest.clear();
    assert!(!answer.wants_more());
    let mut large = asking(&[part("a", 100)]);
    large.take(user, [changed(100, 3 * MAX_NAMES)]);
    assert!(large.recent.rest.is_empty(), "what is more than is told at once is told alone");
}

#[test]
fn a_request_goes_on_to_what_is_left_of_its_app() {
    let (requests, _queue) = queue();
    let answered = Recent { rest: vec![part("a", 100), part("b", 100)], ..Recent::default() };
    let mut of_one = RecentRequest::new(requests.clone(), UserKey::of("u"), Some("b".into()));
    assert!(of_one.go_on(&answered));
    assert_eq!(of_one.rest.as_deref(), Some(&[part("b", 100)][..]));
    assert!(!of_one.go_on(&Recent { rest: vec![part("a", 100)], ..Recent::default() }));
    let mut of_all = RecentRequest::new(requests, UserKey::of("u"), None);
    assert!(of_all.go_on(&answered) && !of_all.go_on(&Recent::default()));
}

#[test]
fn answers_are_asked_for_in_chunks_of_so_many_ranges() {
    let mut answers: Vec<Answer> = [300, 199, 1, 600, 10, 20]
        .map(|count| asking(&(0..count).map(|n| part(&n.to_string(), 100)).collect::<Vec<_>>()))
        .into();
    let mut wanting: Vec<((), &mut Answer)> = answers.iter_mut().map(|answer| ((), answer)).collect();
    let chunks: Vec<usize> = chunks_by_ranges(&mut wanting).iter().map(|chunk| chunk.len()).collect();
    assert_eq!(chunks.iter().sum::<usize>(), 6);
    assert!(chunks.len() <= 4, "{chunks:?}");
}
