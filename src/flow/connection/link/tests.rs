//! The link, told the moment and what happened: no socket, no clock, no sleep.

use super::*;
use crate::flow::stage::tests::start;

const SECOND: Duration = Duration::from_secs(1);

fn link(change: impl FnOnce(&mut ConnectionArgs)) -> (Link, Moment) {
    let now = start();
    let mut args = ConnectionArgs::default();
    change(&mut args);
    (Link::new(args, now), now)
}

/// Everything that is to be done, without what is only said.
fn effects(link: &mut Link) -> Vec<Effect> {
    let all = std::iter::from_fn(|| link.effect());
    all.filter(|effect| !matches!(effect, Effect::Warn(_) | Effect::Inform(_) | Effect::Detail(_))).collect()
}

/// The lifecycle records alone.
fn told(link: &mut Link) -> Vec<Change> {
    let changes = effects(link).into_iter().filter_map(|effect| match effect {
        Effect::Tell(change) => Some(change),
        _ => None,
    });
    changes.collect()
}

/// Dials, connects and is let in.
fn open(link: &mut Link, now: Moment) {
    link.tick(now, 0.5);
    assert!(effects(link).contains(&Effect::Dial));
    link.dialed(now);
    link.heard(now);
    link.proven(now);
}

fn wait_of(link: &Link, now: Moment) -> Duration {
    link.deadline().expect("an attempt is due") - now.at
}

fn failed(reason: &str) -> Change {
    Change::Failed { reason: reason.to_owned() }
}

#[test]
fn a_handshake_proves_nothing_and_the_first_message_does() {
    let (mut link, now) = link(|_| ());
    link.tick(now, 0.0);
    assert_eq!(effects(&mut link), [Effect::Dial]);
    link.dialed(now);
    assert_eq!(effects(&mut link), []);
    link.heard(now);
    link.proven(now);
    link.proven(now);
    assert_eq!(effects(&mut link), [Effect::Tell(Change::Open { attempts: 1 })]);
}

#[test]
fn a_server_that_accepts_and_is_dead_is_found_out_sooner() {
    let (mut link, now) = link(|_| ());
    link.tick(now, 0.0);
    link.dialed(now);
    effects(&mut link);
    assert_eq!(wait_of(&link, now), 10 * SECOND);
    link.tick(now.after(10 * SECOND), 0.0);
    assert_eq!(wait_of(&link, now), 20 * SECOND);
    link.tick(now.after(20 * SECOND), 0.0);
    let reason = "the server went silent: no answer to a ping within 10s";
    assert_eq!(effects(&mut link), [Effect::Ping, Effect::HangUp, Effect::Tell(failed(reason))]);
}

#[test]
fn a_server_that_only_answers_pings_lives_and_is_never_called_open() {
    let (mut link, mut now) = link(|_| ());
    link.tick(now, 0.0);
    link.dialed(now);
    for _ in 0..100 {
        now = now.after(SECOND);
        link.heard(now);
        now = now.after(20 * SECOND);
        link.tick(now, 0.0);
    }
    assert!(effects(&mut link).iter().all(|effect| matches!(effect, Effect::Dial | Effect::Ping)));
}

#[test]
fn silence_is_pinged_and_silence_after_that_is_the_end() {
    let (mut link, now) = link(|_| ());
    open(&mut link, now);
    effects(&mut link);
    link.tick(now.after(19 * SECOND), 0.0);
    assert_eq!(effects(&mut link), []);
    let pinged = now.after(20 * SECOND);
    link.tick(pinged, 0.0);
    link.tick(pinged.after(9 * SECOND), 0.0);
    assert_eq!(effects(&mut link), [Effect::Ping]);
    // Any byte is a sign of life, so the next ping is due 20s after it.
    link.heard(pinged.after(9 * SECOND));
    link.tick(pinged.after(28 * SECOND), 0.0);
    assert_eq!(effects(&mut link), []);
    link.tick(pinged.after(29 * SECOND), 0.0);
    link.tick(pinged.after(39 * SECOND), 0.0);
    let reason = "the server went silent: no answer to a ping within 10s".to_owned();
    assert_eq!(effects(&mut link), [Effect::Ping, Effect::HangUp, Effect::Tell(Change::Close { reason, code: None })]);
}

#[test]
fn while_the_output_is_blocked_silence_proves_nothing() {
    let (mut link, now) = link(|args| args.max_silence = Some(60 * SECOND));
    open(&mut link, now);
    effects(&mut link);
    link.block(now, true);
    let later = now.after(3600 * SECOND);
    assert_eq!(link.deadline(), None);
    link.tick(later, 0.0);
    link.block(later, false);
    link.tick(later.after(19 * SECOND), 0.0);
    assert_eq!(effects(&mut link), []);
}

#[test]
fn bytes_read_after_a_blockage_may_be_as_old_as_that() {
    let (mut link, now) = link(|_| ());
    open(&mut link, now);
    link.block(now, true);
    let later = now.after(3600 * SECOND);
    link.block(later, false);
    link.heard(later);
    link.ended(later, "gone", None, 0.0);
    let to = later.after(SECOND);
    open(&mut link, to);
    let from = |changes: &[Change]| match changes.last() {
        Some(Change::Gap { from, .. }) => *from,
        other => panic!("{other:?}"),
    };
    assert_eq!(from(&told(&mut link)), now.utc);
    link.caught_up();
    link.heard(to.after(SECOND));
    link.ended(to.after(2 * SECOND), "gone", None, 0.0);
    open(&mut link, to.after(60 * SECOND));
    assert_eq!(from(&told(&mut link)), to.after(SECOND).utc);
}

#[test]
fn a_gap_runs_from_the_last_proof_of_life_to_the_next_open() {
    let (mut link, now) = link(|_| ());
    open(&mut link, now);
    let heard = now.after(7 * SECOND);
    link.heard(heard);
    link.ended(heard.after(5 * SECOND), "it broke", Some(1011), 0.0);
    assert_eq!(
        told(&mut link),
        [Change::Open { attempts: 1 }, Change::Close { reason: "it broke".to_owned(), code: Some(1011) }]
    );
    // An attempt in between fails, another one is let down before it was let in: neither is a close.
    link.tick(heard.after(6 * SECOND), 0.0);
    link.failed(heard.after(7 * SECOND), "refused", None, 0.0);
    link.tick(heard.after(8 * SECOND), 0.0);
    link.dialed(heard.after(9 * SECOND));
    link.ended(heard.after(10 * SECOND), "no room", Some(1013), 0.0);
    assert_eq!(told(&mut link), [failed("refused"), failed("no room")]);
    let to = heard.after(20 * SECOND);
    open(&mut link, to);
    let gap = Change::Gap { from: heard.utc, to: to.utc, reason: "it broke".to_owned(), attempts: 3 };
    assert_eq!(told(&mut link), [Change::Open { attempts: 3 }, gap]);
}

#[test]
fn of_a_run_of_equal_failures_the_first_is_told() {
    let (mut link, mut now) = link(|_| ());
    for reason in ["refused", "refused", "no such host", "refused", "refused"] {
        link.tick(now, 0.0);
        link.failed(now, reason, None, 0.0);
        now = now.after(60 * SECOND);
    }
    assert_eq!(told(&mut link), [failed("refused"), failed("no such host"), failed("refused")]);
    open(&mut link, now);
    link.ended(now, "gone", None, 0.0);
    now = now.after(SECOND);
    link.tick(now, 0.0);
    link.failed(now, "refused", None, 0.0);
    assert_eq!(told(&mut link).last(), Some(&failed("refused")));
}

#[test]
fn the_backoff_grows_never_falls_below_its_floor_and_heals() {
    let (mut link, mut now) = link(|_| ());
    for random in [0.0, 1.0] {
        for _ in 0..40 {
            link.tick(now, random);
            link.failed(now, "refused", None, random);
            let wait = wait_of(&link, now);
            assert!(wait >= backoff::FLOOR && wait <= backoff::CEILING);
            now = now.after(wait);
        }
    }
    assert_eq!(wait_of(&link, now), Duration::ZERO);
    // A link that dies young does not heal it; one that lived for half a minute does.
    open(&mut link, now);
    link.ended(now, "gone", None, 1.0);
    assert_eq!(wait_of(&link, now), backoff::CEILING);
    now = now.after(backoff::CEILING);
    open(&mut link, now);
    now = now.after(HEALTHY);
    link.heard(now);
    link.ended(now, "gone", None, 1.0);
    assert_eq!(wait_of(&link, now), 2 * SECOND);
}

#[test]
fn a_wait_the_server_asks_for_is_obeyed_and_does_not_count_towards_giving_up() {
    let (mut link, now) = link(|args| args.give_up = Some(30 * SECOND));
    link.tick(now, 0.0);
    link.failed(now, "HTTP 429", Some(100 * SECOND), 0.0);
    assert_eq!(wait_of(&link, now), 100 * SECOND);
    let later = now.after(100 * SECOND);
    effects(&mut link);
    link.tick(later, 0.0);
    assert_eq!(effects(&mut link), [Effect::Dial]);
    link.failed(later, "HTTP 429", Some(Duration::ZERO), 0.0);
    assert_eq!(wait_of(&link, later), backoff::FLOOR);
}

#[test]
fn gives_up_after_so_long_without_a_proven_link() {
    let (mut link, now) = link(|args| args.give_up = Some(30 * SECOND));
    open(&mut link, now);
    let lost = now.after(3600 * SECOND);
    link.heard(lost);
    link.ended(lost, "gone", None, 0.0);
    link.tick(lost.after(SECOND), 0.0);
    link.dialed(lost.after(SECOND));
    link.heard(lost.after(29 * SECOND));
    effects(&mut link);
    assert_eq!(link.deadline(), Some(lost.at + 30 * SECOND));
    link.tick(lost.after(30 * SECOND), 0.0);
    let reason = "no connection for 30s (--give-up)";
    assert_eq!(effects(&mut link), [Effect::Tell(failed(reason)), Effect::End(Err(Failure::failed(reason)))]);
    assert_eq!(link.deadline(), None);
}

#[test]
fn without_reconnecting_the_first_failure_is_the_end() {
    let (mut link, now) = link(|args| args.no_reconnect = true);
    open(&mut link, now);
    effects(&mut link);
    link.ended(now, "gone", Some(1000), 0.0);
    let close = Change::Close { reason: "gone".to_owned(), code: Some(1000) };
    let end = Effect::End(Err(Failure::failed("gone (--no-reconnect)")));
    assert_eq!(effects(&mut link), [Effect::HangUp, Effect::Tell(close), end]);
}

#[test]
fn refused_credentials_are_final_unless_they_have_changed() {
    let (mut refused, now) = link(|_| ());
    refused.tick(now, 0.0);
    effects(&mut refused);
    refused.refused(now, "HTTP 401", 1, 2, 0.0);
    assert_eq!(wait_of(&refused, now), backoff::FLOOR);
    let later = now.after(SECOND);
    refused.tick(later, 0.0);
    effects(&mut refused);
    // Going back to those that were refused before is no change.
    refused.refused(later, "HTTP 401", 2, 1, 0.0);
    let end = Effect::End(Err(Failure::refused("the credentials are refused: HTTP 401")));
    assert_eq!(effects(&mut refused), [Effect::Tell(Change::Unauthorized { reason: "HTTP 401".to_owned() }), end]);
}

#[test]
fn limits_end_it_in_good_order() {
    let (mut link, now) = link(|args| {
        args.max_events = Some(2);
        args.run_for = Some(60 * SECOND);
    });
    open(&mut link, now);
    effects(&mut link);
    link.event(now);
    assert_eq!(effects(&mut link), []);
    link.event(now);
    let stopped = Change::Stopped { reason: "2 events (--max-events)".to_owned() };
    assert_eq!(effects(&mut link), [Effect::Tell(stopped), Effect::End(Ok(Exit::Success))]);
    link.tick(now.after(60 * SECOND), 0.0);
    link.stop("asked");
    assert_eq!(effects(&mut link), []);
}

#[test]
fn no_event_for_too_long_is_a_lost_connection_however_alive_it_seems() {
    let (mut link, now) = link(|args| args.max_silence = Some(30 * SECOND));
    open(&mut link, now);
    link.event(now.after(SECOND));
    link.heard(now.after(30 * SECOND));
    effects(&mut link);
    link.tick(now.after(30 * SECOND), 0.0);
    assert_eq!(effects(&mut link), []);
    link.tick(now.after(31 * SECOND), 0.0);
    let reason = "no event for 30s (--max-silence)".to_owned();
    assert_eq!(told(&mut link), [Change::Close { reason, code: None }]);
}

#[test]
fn a_renewal_dials_at_once_and_leaves_a_gap() {
    let (mut link, now) = link(|_| ());
    open(&mut link, now);
    effects(&mut link);
    link.renew(now);
    link.tick(now, 0.0);
    let close = Change::Close { reason: "asked to connect anew (HUP)".to_owned(), code: None };
    assert_eq!(effects(&mut link), [Effect::HangUp, Effect::Tell(close), Effect::Dial]);
}

fn beats(link: &mut Link) -> usize {
    told(link).iter().filter(|change| **change == Change::Heartbeat).count()
}

#[test]
fn heartbeats_come_while_the_link_is_proven_alive() {
    let (mut link, mut now) = link(|args| args.heartbeat = Some(5 * SECOND));
    link.tick(now, 0.0);
    link.dialed(now);
    // A server that only answers pings has not let us in.
    for _ in 0..30 {
        now = now.after(SECOND);
        link.heard(now);
        link.tick(now, 0.0);
    }
    assert_eq!(beats(&mut link), 0);
    link.proven(now);
    for _ in 0..60 {
        now = now.after(SECOND);
        link.heard(now);
        link.tick(now, 0.0);
    }
    assert_eq!(beats(&mut link), 12);
    // Silence: the last proof holds for ping and time-out together, and then the link is lost.
    for _ in 0..60 {
        now = now.after(SECOND);
        link.tick(now, 0.0);
    }
    let changes = told(&mut link);
    assert_eq!(changes.iter().take_while(|change| **change == Change::Heartbeat).count(), 5, "{changes:?}");
    assert!(matches!(changes[5], Change::Close { .. }) && !changes[6..].contains(&Change::Heartbeat));
}

#[test]
fn no_heartbeat_while_the_output_is_blocked_nor_before_life_is_proven_after_that() {
    let (mut link, now) = link(|args| args.heartbeat = Some(5 * SECOND));
    open(&mut link, now);
    link.block(now, true);
    link.tick(now.after(100 * SECOND), 0.0);
    let later = now.after(101 * SECOND);
    link.block(later, false);
    // What is read now may have been sent long ago.
    link.heard(later);
    link.tick(later, 0.0);
    link.caught_up();
    link.tick(later.after(SECOND), 0.0);
    assert!(link.deadline().is_some_and(|deadline| deadline > later.at), "nothing is overdue");
    assert_eq!(beats(&mut link), 0);
    link.heard(later.after(2 * SECOND));
    link.tick(later.after(2 * SECOND), 0.0);
    assert_eq!(beats(&mut link), 1);
}

#[test]
fn a_loop_that_was_held_up_beats_only_with_fresh_proof() {
    let (mut link, now) = link(|args| args.heartbeat = Some(5 * SECOND));
    open(&mut link, now);
    let late = now.after(29 * SECOND);
    link.tick(late, 0.0);
    assert_eq!(beats(&mut link), 1);
    let (mut link, now) = self::link(|args| {
        args.heartbeat = Some(5 * SECOND);
        args.timeout = 3600 * SECOND;
    });
    open(&mut link, now);
    link.tick(now.after(4000 * SECOND), 0.0);
    assert_eq!(beats(&mut link), 0);
    assert!(link.deadline().is_some_and(|deadline| deadline > now.after(4000 * SECOND).at));
}

fn hold(link: &mut Link, now: Moment) {
    link.tick(now, 0.0);
    assert!(effects(link).contains(&Effect::Dial));
    link.refused(now, "HTTP 401", 1, 1, 0.0);
}

#[test]
fn refused_credentials_are_held_on_to_and_tried_once_in_so_long() {
    let (mut link, mut now) = link(|args| {
        args.hold_on_auth = Some(3600 * SECOND);
        args.give_up = Some(60 * SECOND);
    });
    hold(&mut link, now);
    let unauthorized = Effect::Tell(Change::Unauthorized { reason: "HTTP 401".to_owned() });
    assert_eq!(effects(&mut link), [unauthorized, Effect::HangUp]);
    for _ in 0..3599 {
        now = now.after(SECOND);
        link.found(now, 1);
        link.tick(now, 0.0);
    }
    assert_eq!(effects(&mut link), []);
    assert_eq!(link.status(), "not connected, waiting for other credentials (the credentials are refused: HTTP 401)");
    // Refused again is not told again.
    now = now.after(SECOND);
    hold(&mut link, now);
    assert_eq!(effects(&mut link), [Effect::HangUp]);
    assert_eq!(wait_of(&link, now), 3600 * SECOND);
}

#[test]
fn changed_credentials_are_tried_at_once_and_old_ones_only_when_their_time_is_up() {
    let (mut link, now) = link(|args| args.hold_on_auth = Some(100 * SECOND));
    hold(&mut link, now);
    let changed = now.after(10 * SECOND);
    link.found(changed, 2);
    assert_eq!(wait_of(&link, changed), Duration::ZERO);
    link.tick(changed, 0.0);
    assert!(effects(&mut link).contains(&Effect::Dial));
    link.refused(changed, "HTTP 401", 2, 2, 0.0);
    // Back to the first, which has 90 seconds left.
    link.found(changed.after(SECOND), 1);
    assert_eq!(wait_of(&link, changed), 90 * SECOND);
    link.found(changed.after(SECOND), 2);
    assert_eq!(wait_of(&link, changed), 100 * SECOND);
    // However fast they change, the floor between two attempts stays.
    let (mut link, now) = self::link(|args| args.hold_on_auth = Some(100 * SECOND));
    hold(&mut link, now);
    link.found(now, 2);
    assert_eq!(wait_of(&link, now), backoff::FLOOR);
}

#[test]
fn credentials_refused_in_the_middle_of_a_stream_close_it_and_leave_a_gap() {
    let (mut link, now) = link(|args| args.hold_on_auth = Some(100 * SECOND));
    open(&mut link, now);
    effects(&mut link);
    link.refused(now, "revoked", 1, 1, 0.0);
    let close = Change::Close { reason: "revoked".to_owned(), code: None };
    assert_eq!(told(&mut link), [Change::Unauthorized { reason: "revoked".to_owned() }, close]);
    let later = now.after(100 * SECOND);
    open(&mut link, later);
    assert!(matches!(told(&mut link)[..], [Change::Open { .. }, Change::Gap { .. }]));
}

#[test]
fn a_hundred_restarts_are_a_hundred_gaps_and_no_two_attempts_are_closer_than_the_floor() {
    let (mut link, mut now) = link(|_| ());
    let (mut attempts, mut gaps, mut opens, mut last) = (0, 0, 0, None::<Instant>);
    for round in 0..101_u32 {
        now.at = now.at.max(link.deadline().expect("an attempt is due"));
        link.tick(now, 0.0);
        for effect in effects(&mut link) {
            if effect == Effect::Dial {
                attempts += 1;
                assert!(last.is_none_or(|last| now.at - last >= backoff::FLOOR));
                last = Some(now.at);
            }
        }
        link.dialed(now);
        link.heard(now);
        link.proven(now);
        link.event(now);
        now = now.after(Duration::from_millis(u64::from(round) * 7));
        link.ended(now, "restart", Some(1012), 0.0);
        for change in told(&mut link) {
            gaps += usize::from(matches!(change, Change::Gap { .. }));
            opens += usize::from(matches!(change, Change::Open { .. }));
        }
    }
    assert_eq!((attempts, opens, gaps), (101, 101, 100));
}

#[test]
fn the_status_tells_where_the_link_is() {
    let (mut link, now) = link(|_| ());
    assert_eq!(link.status(), "connecting");
    link.tick(now, 0.0);
    assert_eq!(link.status(), "connecting, attempt 1");
    link.failed(now, "refused", None, 0.0);
    assert_eq!(link.status(), "not connected, will try again (refused)");
    link.tick(now.after(SECOND), 0.0);
    link.dialed(now);
    assert_eq!(link.status(), "connected, waiting for the first message (refused)");
    link.proven(now);
    assert_eq!(link.status(), "open");
    link.block(now, true);
    assert!(link.status().starts_with("open, but standard output is blocked"));
    link.ended(now, "gone", None, 0.0);
    assert_eq!(link.status(), "not connected, will try again (gone)");
    link.stop("asked");
    assert_eq!(link.status(), "stopping");
}

fn after(now: Moment, seconds: u32) -> Moment {
    let millis = now.utc.millis() + i64::from(seconds) * 1000;
    Moment { at: now.at + SECOND * seconds, utc: Timestamp::from_millis(millis).expect("it is a date") }
}

#[test]
fn a_connection_that_turns_out_to_be_useless_was_lost_when_it_became_so_and_the_servers_wish_is_obeyed() {
    let (mut link, now) = link(|_| ());
    open(&mut link, now);
    effects(&mut link);
    let later = after(now, 90);
    link.heard(later);
    link.useless(later, "the session is over", Some(after(now, 20).utc), Some(SECOND * 300), 0.0);
    let close = Change::Close { reason: "the session is over".to_owned(), code: None };
    assert_eq!(told(&mut link), [close]);
    assert_eq!(wait_of(&link, later), SECOND * 300);
    let again = after(now, 390);
    open(&mut link, again);
    let gaps: Vec<Change> = told(&mut link).into_iter().filter(|change| matches!(change, Change::Gap { .. })).collect();
    let [Change::Gap { from, .. }] = &gaps[..] else { panic!("{gaps:?}") };
    assert_eq!(*from, after(now, 20).utc);
}
