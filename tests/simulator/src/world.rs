//! Everything that the server's threads share, and the way from a request to its answer.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use crate::{
    answer::Answer,
    api,
    fault::{Effect, Fault, Planted},
    login,
    protocol::{self, unauthorized},
    request::{Operation, Request},
    sync::{Stop, lock},
    tenant::Held,
    time::Clock,
};

/// A request that came, and what it was answered.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The request.
    pub request: Arc<Request>,
    /// The status of its answer, once there is one.
    pub status: Option<u16>,
    /// The length of the answer's body as sent, or as it would have been sent if a fault had not cut it.
    pub body_length: usize,
}

/// The state of the simulated world.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) clock: Arc<Clock>,
    pub(crate) stop: Stop,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) tenants: Mutex<HashMap<String, Arc<Held>>>,
    pub(crate) faults: Mutex<Vec<Planted>>,
    pub(crate) connections: AtomicUsize,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) in_flight_max: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    arrival: Condvar,
    violations: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            clock: Arc::default(),
            stop: Stop::default(),
            latency: Mutex::default(),
            tenants: Mutex::default(),
            faults: Mutex::default(),
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            seen: Mutex::default(),
            arrival: Condvar::new(),
            violations: Mutex::default(),
        }
    }

    /// Answers a request, and remembers both.
    pub(crate) fn answer(&self, mut request: Request) -> Answer {
        let tenant = request.tenant.as_ref().and_then(|id| lock(&self.tenants).get(id).cloned());
        if let (Some(tenant), Some(content_id)) = (&tenant, &request.content_id) {
            let blob = lock(&tenant.state).blob(content_id);
            request.content_type = blob.map(|blob| blob.content_type.clone());
        }
        let request = Arc::new(request);
        let number = {
            let mut seen = lock(&self.seen);
            seen.push(Seen { request: Arc::clone(&request), status: None, body_length: 0 });
            self.arrival.notify_all();
            seen.len() - 1
        };
        let mut answer = self.answer_or_fault(tenant.as_deref(), &request);
        answer.delay += *lock(&self.latency);
        if let Some(seen) =
            lock(&self.seen).get_mut(number).filter(|seen| Arc::ptr_eq(&seen.request, &request))
        {
            seen.status = Some(answer.status);
            seen.body_length = answer.body.len();
        }
        answer
    }

    fn answer_or_fault(&self, tenant: Option<&Held>, request: &Request) -> Answer {
        if let Err(breach) = protocol::check(request) {
            self.note_violation(request, &breach.text);
            return *breach.answer;
        }
        let fault: Option<Fault> =
            lock(&self.faults).iter().find_map(|planted| planted.strike(request)).cloned();
        match fault.map(|fault| fault.effect) {
            None => {
                let answer = self.true_answer(tenant, request);
                let started = request.operation == Operation::StartSubscription && answer.status == 200;
                if let (true, Some(tenant), Some(content_type)) = (started, tenant, &request.content_type) {
                    tenant.note_start(content_type);
                }
                answer
            }
            Some(Effect::Instead(answer)) => answer(request),
            Some(Effect::Alter(alter)) => {
                let truth = self.true_answer(tenant, request);
                let (status, body) = (truth.status, truth.body.clone());
                let mut altered = alter(request, truth);
                if (altered.status, &altered.body) != (status, &body) {
                    altered.serves = None;
                }
                altered
            }
        }
    }

    fn true_answer(&self, tenant: Option<&Held>, request: &Request) -> Answer {
        match request.operation {
            Operation::Login => return login::log_in(tenant, request, &self.url),
            Operation::Root => return Answer::status(302).with_header("Location", "https://www.office.com/"),
            _ => {}
        }
        let token = request.token().unwrap_or_default();
        let (is_own, is_good) = tenant.map_or((false, false), |tenant| tenant.knows_token(token));
        match tenant {
            Some(tenant) if is_good => api::answer(self, tenant, request),
            _ => {
                if !is_own && lock(&self.tenants).values().any(|other| other.knows_token(token).0) {
                    self.note_violation(request, "the token is another tenant's");
                }
                unauthorized()
            }
        }
    }

    /// Remembers what a client did wrong.
    pub(crate) fn note_violation(&self, request: &Request, text: &str) {
        lock(&self.violations).push(format!("{} {}: {text}", request.method, request.target));
    }

    pub(crate) fn note_unreadable(&self, text: &str) {
        lock(&self.violations).push(format!("unreadable request: {text}"));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }

    pub(crate) fn forget_seen(&self) {
        lock(&self.seen).clear();
    }

    pub(crate) fn count(&self, operation: Operation) -> usize {
        lock(&self.seen).iter().filter(|seen| seen.request.operation == operation).count()
    }

    /// Waits until this number of requests of an operation has arrived; `false` if the time runs out.
    pub(crate) fn wait_for(&self, count: usize, operation: Operation, time: Duration) -> bool {
        let until = Instant::now() + time;
        let mut seen = lock(&self.seen);
        loop {
            if seen.iter().filter(|seen| seen.request.operation == operation).count() >= count {
                return true;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            seen = self.arrival.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
