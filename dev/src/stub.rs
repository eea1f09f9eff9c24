//! The common part of stand-ins for other services: a real HTTP server that counts its requests and misbehaves on
//! demand.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::DevError;

/// The way a stand-in answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Correctly.
    Serve,
    /// With this status and an empty body.
    Error(u16),
    /// Never. Hanging requests are released when the mode changes.
    Hang,
    /// With 200, and an unexpected body.
    Garbage,
    /// Correctly, but this much later.
    Slow(Duration),
}

/// A running stand-in. Dropping it stops it.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    control: Arc<Control>,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Control {
    mode: Mutex<(Mode, CancellationToken)>,
    requests: AtomicU64,
    stop: CancellationToken,
}

impl Stub {
    /// Listens on `address` (port 0: any free one) and answers with `router`, as the mode allows.
    pub async fn start(address: SocketAddr, router: Router) -> Result<Self, DevError> {
        let action = format!("listen on {address}");
        let listener = TcpListener::bind(address).await.map_err(DevError::io(action.clone()))?;
        let address = listener.local_addr().map_err(DevError::io(action))?;
        let control = Arc::new(Control {
            mode: Mutex::new((Mode::Serve, CancellationToken::new())),
            requests: AtomicU64::new(0),
            stop: CancellationToken::new(),
        });
        let router = router.layer(from_fn_with_state(Arc::clone(&control), behave));
        let stop = control.stop.clone();
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
            // It never ends with an error: axum retries failed accepts.
            let _ = serving.await;
        });
        Ok(Self { address, control, task: Some(task) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets how it answers from now on, and releases hanging requests.
    pub fn set_mode(&self, mode: Mode) {
        let mut current = lock(&self.control.mode);
        let (_, changed) = std::mem::replace(&mut *current, (mode, CancellationToken::new()));
        changed.cancel();
    }

    /// The number of requests since the start, whatever the answer.
    pub fn requests(&self) -> u64 {
        self.control.requests.load(Ordering::Relaxed)
    }

    /// Stops it and waits until its port is free again.
    pub async fn stop(mut self) {
        self.control.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.control.stop.cancel();
    }
}

async fn behave(State(control): State<Arc<Control>>, request: Request, next: Next) -> Response {
    control.requests.fetch_add(1, Ordering::Relaxed);
    let (mode, changed) = lock(&control.mode).clone();
    let stopped = async {
        tokio::select! {
            () = control.stop.cancelled() => {}
            () = changed.cancelled() => {}
        }
    };
    match mode {
        Mode::Serve => next.run(request).await,
        Mode::Error(status) => {
            StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR).into_response()
        }
        Mode::Garbage => "<html>It works!</html>".into_response(),
        Mode::Hang => {
            stopped.await;
            StatusCode::SERVICE_UNAVAILABLE.into_response()
        }
        Mode::Slow(delay) => {
            let _ = tokio::time::timeout(delay, stopped).await;
            next.run(request).await
        }
    }
}

/// Locks it even after a thread has panicked while holding the lock.
pub fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
