//! The state that the threads of the server share, and how a request is answered.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use crate::{
    answer::Answer,
    api,
    fault::{Effect, Fault, PlantedFault},
    login,
    managed_identity::{self, ManagedIdentities},
    protocol::{self, unauthorized},
    request::{Operation, Request},
    sync::{Stop, lock},
    tenant::SharedTenant,
    time::Clock,
};

/// A request that was received, and its answer.
#[derive(Clone, Debug)]
pub struct LoggedRequest {
    /// The request.
    pub request: Arc<Request>,
    /// The status of the answer, if there is one.
    pub status: Option<u16>,
    /// The length of the answer's body, without regard to faults that cut it.
    pub body_length: usize,
}

/// The state of the simulator.
pub(crate) struct World {
    pub(crate) url: String,
    pub(crate) clock: Arc<Clock>,
    pub(crate) stop: Stop,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) tenants: Mutex<HashMap<String, Arc<SharedTenant>>>,
    pub(crate) identities: Mutex<ManagedIdentities>,
    pub(crate) faults: Mutex<Vec<PlantedFault>>,
    pub(crate) connections: AtomicUsize,
    pub(crate) in_flight: AtomicUsize,
    pub(crate) in_flight_max: AtomicUsize,
    seen: Mutex<Vec<LoggedRequest>>,
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
            identities: Mutex::default(),
            faults: Mutex::default(),
            connections: AtomicUsize::new(0),
            in_flight: AtomicUsize::new(0),
            in_flight_max: AtomicUsize::new(0),
            seen: Mutex::default(),
            arrival: Condvar::new(),
            violations: Mutex::default(),
        }
    }

    /// Answers a request, and records both.
    pub(crate) fn answer(&self, mut request: Request) -> Answer {
        let tenant = request.tenant.as_ref().and_then(|id| lock(&self.tenants).get(id).cloned());
        if let (Some(tenant), Some(content_id)) = (&tenant, &request.content_id) {
            let blob = lock(&tenant.state).blob(content_id);
            request.content_type = blob.map(|blob| blob.content_type.clone());
        }
        let request = Arc::new(request);
        let number = {
            let mut seen = lock(&self.seen);
            seen.push(LoggedRequest { request: Arc::clone(&request), status: None, body_length: 0 });
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

    fn answer_or_fault(&self, tenant: Option<&SharedTenant>, request: &Request) -> Answer {
        if let Err(violation) = protocol::check(request) {
            self.note_violation(request, &violation.text);
            return *violation.answer;
        }
        let fault: Option<Fault> =
            lock(&self.faults).iter().find_map(|planted| planted.occur(request)).cloned();
        match fault.map(|fault| fault.effect) {
            None => {
                let answer = self.regular_answer(tenant, request);
                let started = request.operation == Operation::StartSubscription && answer.status == 200;
                if let (true, Some(tenant), Some(content_type)) = (started, tenant, &request.content_type) {
                    tenant.note_start(content_type);
                }
                answer
            }
            Some(Effect::Instead(answer)) => answer(request),
            Some(Effect::Alter(alter)) => {
                let answer = self.regular_answer(tenant, request);
                let (status, body) = (answer.status, answer.body.clone());
                let mut altered = alter(request, answer);
                if (altered.status, &altered.body) != (status, &body) {
                    altered.serves = None;
                }
                altered
            }
        }
    }

    fn regular_answer(&self, tenant: Option<&SharedTenant>, request: &Request) -> Answer {
        match request.operation {
            Operation::Login => return login::log_in(tenant, request, &self.url),
            Operation::ManagedIdentity => return managed_identity::answer(self, request),
            Operation::Root => return Answer::status(302).with_header("Location", "https://www.office.com/"),
            _ => {}
        }
        let token = request.token().unwrap_or_default();
        let (is_own, is_valid) = tenant.map_or((false, false), |tenant| tenant.knows_token(token));
        match tenant {
            Some(tenant) if is_valid => api::answer(self, tenant, request),
            _ => {
                if !is_own && lock(&self.tenants).values().any(|other| other.knows_token(token).0) {
                    self.note_violation(request, "the token is another tenant's");
                }
                unauthorized()
            }
        }
    }

    /// Records a violation of the protocol.
    pub(crate) fn note_violation(&self, request: &Request, text: &str) {
        lock(&self.violations).push(format!("{} {}: {text}", request.method, request.target));
    }

    pub(crate) fn note_unreadable(&self, text: &str) {
        lock(&self.violations).push(format!("unreadable request: {text}"));
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(crate) fn seen(&self) -> Vec<LoggedRequest> {
        lock(&self.seen).clone()
    }

    pub(crate) fn forget_seen(&self) {
        lock(&self.seen).clear();
    }

    pub(crate) fn count(&self, operation: Operation) -> usize {
        lock(&self.seen).iter().filter(|seen| seen.request.operation == operation).count()
    }

    /// Waits until this number of requests of an operation was received. Returns `false` if that takes longer than `time`.
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
