//! Removing a package with all that belongs to it, for whichever reason.

use crate::{
    Change, Error, Op,
    engine::{Tx, statements},
    icon::{ICON_TOPIC, icons_of_in},
    icon_fetch::forget_fetches,
    package::{PACKAGE_TOPIC, SCHEMA_TOPIC, json_array, schema_key},
    schema::schemas_of_in,
};

statements! {
    /// Removes a package.
    REMOVE = "package_remove" => ["DELETE FROM package WHERE name = $1"];
    /// Removes what is known of its versions' schemas.
    REMOVE_SCHEMAS = "package_remove_schemas" => ["DELETE FROM package_schema WHERE package = $1"];
    /// Removes what is known of its icons.
    REMOVE_ICONS = "package_remove_icons" => ["DELETE FROM icon WHERE package = $1"];
}

/// Removes a package's rows and returns what to announce; nothing if there is no such package. The texts and bytes that nothing
/// refers to any more are left to whoever prunes them.
pub(crate) async fn remove_package(tx: &mut Tx, name: &str) -> Result<Vec<Change>, Error> {
    let names = json_array([name].iter())?;
    let schemas = schemas_of_in(tx, Some(&names)).await?;
    let icons = icons_of_in(tx, Some(&names)).await?;
    let removed = tx.statement(&REMOVE).bind(name).execute().await?;
    for statement in [&REMOVE_SCHEMAS, &REMOVE_ICONS] {
        tx.statement(statement).bind(name).execute().await?;
    }
    forget_fetches(tx, name).await?;
    if removed == 0 {
        return Ok(Vec::new());
    }
    let mut changes = vec![Change::new(PACKAGE_TOPIC, name, Op::Delete, "")];
    changes.extend(schemas.iter().filter(|row| row.hash.is_some()).map(|row| {
        let key = schema_key(name, &row.version);
        Change::new(SCHEMA_TOPIC, key, Op::Delete, "")
    }));
    changes.extend(
        icons
            .iter()
            .filter(|row| row.hash.is_some())
            .map(|row| Change::new(ICON_TOPIC, row.key(), Op::Delete, "")),
    );
    Ok(changes)
}
