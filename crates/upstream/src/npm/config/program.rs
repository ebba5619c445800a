//! Asking npm itself, which also reads global and built-in settings that are its own business.

use std::{io, process::Stdio};

use tokio::{process::Command, time::timeout};

use super::Places;

/// What `npm config get registry` prints, or why it is of no use.
pub(super) async fn configured_registry(places: &Places) -> Result<String, String> {
    let Some(program) = &places.npm_program else {
        return Err("not asked".to_owned());
    };
    let mut command = Command::new(program);
    command
        .args(["config", "get", "registry"])
        .env_clear()
        .envs(&places.environment)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if let Some(folder) = &places.working_folder {
        command.current_dir(folder);
    }
    let output = match timeout(places.npm_timeout, command.output()).await {
        Err(_) => {
            let limit_ms = places.npm_timeout.as_millis();
            return Err(format!("no answer within {limit_ms} ms"));
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err("npm is not installed".to_owned());
        }
        Ok(Err(error)) => return Err(error.to_string()),
        Ok(Ok(output)) => output,
    };
    if !output.status.success() {
        return Err(format!("it failed ({})", output.status));
    }
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    match answer.as_str() {
        "" | "undefined" | "null" => Err("it names none".to_owned()),
        _ => Ok(answer),
    }
}
