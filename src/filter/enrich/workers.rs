//! The threads that ask the REST API.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Asker;
use super::answer::{MOST_REDIRECTS, Outcome, follow, is_redirect, judge};
use super::object::Fitting;
use crate::model::address::Address;
use crate::world::credentials::{self, Authorization, TutumAuthArgs};
use crate::world::http::{Request, Transport};
use crate::world::unix::Wake;
use crate::world::{Clock, Diagnostics};

/// What the threads need to know.
pub struct Work {
    /// What carries requests.
    pub transport: Arc<dyn Transport>,
    /// Whose scheme, host and port are asked.
    pub origin: Address,
    /// Leave variables' values as they are.
    pub with_secrets: bool,
    /// Who is told of an answer.
    pub wake: Wake,
}

/// A pool of threads.
pub struct Workers {
    jobs: Sender<Job>,
    answers: Receiver<Answered>,
    args: TutumAuthArgs,
    authorization: Option<Authorization>,
    /// How often the secrets were renewed.
    generation: u64,
    /// Why they could not be read again; told once.
    unreadable: Option<String>,
    diagnostics: Diagnostics,
    clock: Clock,
}

struct Job {
    path: String,
    authorization: Option<Authorization>,
    generation: u64,
}

struct Answered {
    path: String,
    outcome: Outcome,
    generation: u64,
}

impl Workers {
    /// Starts `count` threads. `args` say where the secrets are read again.
    ///
    /// # Errors
    /// The system has no threads left.
    pub fn start(
        count: usize,
        work: Work,
        authorization: Option<Authorization>,
        args: TutumAuthArgs,
        diagnostics: Diagnostics,
    ) -> std::io::Result<Workers> {
        let ((jobs, take), (tell, answers)) = (channel::<Job>(), channel());
        let (take, work) = (Arc::new(Mutex::new(take)), Arc::new(work));
        for number in 0..count {
            let (take, work, tell) = (Arc::clone(&take), Arc::clone(&work), tell.clone());
            // They end with the program, or when nobody asks any longer.
            thread::Builder::new().name(format!("ask-{number}")).spawn(move || {
                loop {
                    let job = take.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(job) = job else { return };
                    // A thread lost to a panic would leave its events waiting, and later ones without a thread.
                    let outcome = catch_unwind(AssertUnwindSafe(|| work.ask(&job)));
                    let outcome = outcome.unwrap_or_else(|_| Outcome::Nothing("internal error".to_owned()));
                    let answered = Answered { path: job.path, outcome, generation: job.generation };
                    if tell.send(answered).is_err() {
                        return;
                    }
                    work.wake.wake();
                }
            })?;
        }
        Ok(Workers { jobs, answers, args, authorization, generation: 0, unreadable: None, diagnostics, clock: Clock })
    }
}

impl Asker for Workers {
    fn ask(&mut self, path: &str) {
        let authorization = self.authorization.clone();
        let job = Job { path: path.to_owned(), authorization, generation: self.generation };
        // The threads live as long as this sender.
        let _ = self.jobs.send(job);
    }

    fn answers(&mut self) -> Vec<(String, Outcome)> {
        let answered: Vec<Answered> = self.answers.try_iter().collect();
        let mut answers = Vec::with_capacity(answered.len());
        for Answered { path, outcome, generation } in answered {
            let outcome = match outcome {
                Outcome::Refused(_) if generation != self.generation || self.renew() => Outcome::AskAgain,
                outcome => outcome,
            };
            answers.push((path, outcome));
        }
        answers
    }

    fn renew(&mut self) -> bool {
        match credentials::tutum(&self.args) {
            Ok(Some(authorization)) if self.authorization.as_ref() != Some(&authorization) => {
                self.diagnostics.info("credentials: read again");
                (self.authorization, self.unreadable) = (Some(authorization), None);
                self.generation += 1;
                true
            }
            Ok(_) => false,
            Err(reason) => {
                if self.unreadable.as_ref() != Some(&reason) {
                    self.diagnostics.warn(&format!("{reason}; keeping the credentials in use"));
                    self.unreadable = Some(reason);
                }
                false
            }
        }
    }

    fn random(&self) -> f64 {
        self.clock.random()
    }
}

impl Work {
    /// Asks once, redirects followed.
    fn ask(&self, job: &Job) -> Outcome {
        let redact = |text: &str| match &job.authorization {
            Some(authorization) => authorization.redact(text),
            None => text.to_owned(),
        };
        let fitting = Fitting { with_secrets: self.with_secrets, redact: &redact };
        let mut address = self.origin.with_path(&job.path);
        for _ in 0..=MOST_REDIRECTS {
            let mut request = Request::get(address.clone());
            request.headers.push(("accept", "application/json".to_owned()));
            request.authorization = job.authorization.as_ref().map(Authorization::header);
            match self.transport.send(&request) {
                Ok(answer) if is_redirect(answer.status) => match follow(&address, answer.location.as_deref()) {
                    Ok(to) => address = to,
                    Err(reason) => return Outcome::Nothing(redact(&reason)),
                },
                answer => return judge(answer, &fitting),
            }
        }
        Outcome::Nothing(format!("redirected more than {MOST_REDIRECTS} times"))
    }
}
