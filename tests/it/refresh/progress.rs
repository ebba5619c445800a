//! What a terminal shows while a refresh runs.

use std::env;

use steadfast_testkit::{foreign::python, process::PROGRAM_VARIABLE};

use crate::scene::{Engine, MISSING, Scene};

/// Runs a program with its standard error on a terminal of 100 columns, and prints all that the terminal got.
const TERMINAL: &str = r#"
import fcntl, os, pty, struct, subprocess, sys, termios
ours, theirs = pty.openpty()
fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=theirs, env=dict(os.environ, TERM="xterm"))
os.close(theirs)
shown = b""
while True:
    try:
        more = os.read(ours, 65536)
    except OSError:
        break
    if not more:
        break
    shown += more
process.wait()
sys.stdout.buffer.write(shown)
"#;

#[tokio::test]
async fn a_terminal_sees_how_far_it_is_and_each_failure_as_it_happens() {
    let scene = Scene::filled(Engine::Sqlite).await;
    let gate = scene.npm.hold("/left-pad");
    let program = env::var(PROGRAM_VARIABLE).expect("the program under test");
    let endpoint = scene.server.grpc_endpoint();
    let arguments = [program.as_str(), "--endpoint", &endpoint, "refresh"];
    let shown = async {
        let output = python(TERMINAL, &arguments).await;
        output.success().to_owned()
    };
    let release = async {
        gate.arrived(1).await;
        // The one at the gate is given up on and asked for again: until then the bar is seen.
        gate.arrived(2).await;
        gate.release();
    };
    let (shown, ()) = tokio::join!(shown, release);
    for name in MISSING {
        assert!(shown.contains(&format!("failed {name}: ")), "{shown:?}");
    }
    let last = shown.rsplit_once("] ").expect("a bar").1;
    let (ended, listed) = last.split_once('/').expect("a count");
    let listed = listed.split_whitespace().next().expect("a number");
    assert_eq!(ended, listed, "the bar gets to its end: {shown:?}");
}
