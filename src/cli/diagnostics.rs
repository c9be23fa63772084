//! `UPM_LOG=error|warn|info|debug|trace`: the engine's own events to journald, for whoever looks for a fault in it.
//!
//! Never audit: tracing-journald blocks when the journal does not read, and hides errors.

use crate::report::text::complain;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

/// Attaches journald where `UPM_LOG` asks for events; without the variable nothing is set up and events cost nothing.
pub fn start() {
    let Ok(wanted) = std::env::var("UPM_LOG") else { return };
    let Ok(level) = wanted.parse::<LevelFilter>() else {
        complain(format_args!("UPM_LOG={}: expected off, error, warn, info, debug or trace", wanted.escape_default()));
        return;
    };
    match tracing_journald::layer() {
        Ok(journald) => {
            let journald = journald.with_syslog_identifier("upm-diagnostics".to_owned()).with_filter(level);
            if let Err(error) = tracing::subscriber::set_global_default(Registry::default().with(journald)) {
                complain(format_args!("UPM_LOG: {error}"));
            }
        }
        Err(error) => complain(format_args!("UPM_LOG: journald cannot be reached: {error}")),
    }
}
