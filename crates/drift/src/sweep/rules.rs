//! Taking over what is declared: everything is compared by it, and what it makes secret is hidden where it was kept before.

use std::time::Duration;

use steadfast_store::{Error, Redact, RulesStanding, Store};

use crate::Rules;

/// How often a batch is tried again while other transactions are in its way.
const CONTENDED: u32 = 20;
/// How long it is left alone in between.
const CONTENDED_WAIT: Duration = Duration::from_millis(200);

/// Makes these rules those that count, if they are not; see [`super::Sweeper::adopt_rules`].
pub(super) async fn adopt(store: &Store, rules: &Rules) -> Result<(), Error> {
    let digest = rules.digest();
    let standing = store.rules_standing(digest).await?;
    // Before anything that depends on them: from now on nobody writes a page by others.
    if standing == RulesStanding::Foreign {
        store.declare_rules(digest).await?;
    }
    redact(store, rules).await?;
    if standing == RulesStanding::Adopted {
        return Ok(());
    }
    let due = store.make_due().await?;
    store.adopted_rules(digest).await?;
    tracing::info!(
        resources = due,
        "what is declared of comparisons is new: everything is compared again"
    );
    Ok(())
}

/// Hides what was kept before it was secret, unless that was done for what is secret now.
async fn redact(store: &Store, rules: &Rules) -> Result<(), Error> {
    let (of, types) = rules.secrets();
    if types.is_empty() {
        return store.forget_redacted().await;
    }
    if store.is_redacted(&of).await? {
        return Ok(());
    }
    tracing::info!(
        types = types.len(),
        "other paths are declared secret: hiding what was kept of them"
    );
    let mut contended = 0;
    loop {
        match store.redact_next(&of, &types, rules).await {
            Ok(true) => contended = 0,
            Ok(false) => break,
            // Other replicas are at work: nothing was written, and the same may work now.
            Err(Error::Contended { .. }) if contended < CONTENDED => {
                contended += 1;
                tokio::time::sleep(CONTENDED_WAIT).await;
            }
            Err(error) => return Err(error),
        }
    }
    tracing::info!("what is secret is hidden everywhere");
    Ok(())
}

impl Redact for Rules {
    fn document(&self, provider: &str, kind: &str, text: &str) -> Option<String> {
        self.of(provider, kind).hide("", text)
    }

    fn digest(&self, provider: &str, kind: &str, text: &str) -> String {
        // What cannot be read is nothing that a report could repeat.
        let digest = self.of(provider, kind).digest(text);
        digest.map_or_else(|_| String::new(), hex::encode)
    }

    fn value(&self, provider: &str, kind: &str, path: &str, text: &str) -> Option<String> {
        self.of(provider, kind).hide(path, text)
    }

    fn is_secret(&self, provider: &str, kind: &str, path: &str) -> bool {
        self.of(provider, kind).is_secret(path)
    }

    fn detail(&self, provider: &str, kind: &str, path: &str, text: &str) -> Option<String> {
        self.of(provider, kind).hide_detail(path, text)
    }
}
