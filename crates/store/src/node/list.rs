//! Reading nodes.

use super::{
    NodeName, NodeRow, NodeWanted, StatusRow, lease_of, lives, node_columns, present, superseded,
};
use crate::{Error, Store, engine::statements};

statements! {
    /// A page of nodes by id and incarnation.
    PAGE = "node_list" => [
        "SELECT " (node_columns!()) (lease_of!("n")) " AS lease_us, " (superseded!()) " AS is_superseded FROM "
        (present!()) now " AS now_us FROM store_meta) q) m \
         CROSS JOIN node n WHERE (n.node, n.incarnation) > ($2, $3) AND ($4 OR " (lives!()) ") \
         ORDER BY n.node, n.incarnation LIMIT $5"
    ];
    /// All nodes that live.
    LIVE = "node_live" => [
        "SELECT " (node_columns!()) (lease_of!("n")) " AS lease_us, " (superseded!()) " AS is_superseded FROM "
        (present!()) now " AS now_us FROM store_meta) q) m CROSS JOIN node n WHERE " (lives!()) " ORDER BY n.node"
    ];
    /// All that is known of some nodes, the newest incarnation of each last.
    NAMED = "node_named" => [
        postgres {
            "SELECT " (node_columns!()) (lease_of!("n")) " AS lease_us, " (superseded!()) " AS is_superseded FROM "
            (present!()) now " AS now_us FROM store_meta) q) m CROSS JOIN node n \
             WHERE n.node = ANY (ARRAY(SELECT json_array_elements_text($2::json))) ORDER BY n.node, n.key"
        }
        sqlite {
            "SELECT " (node_columns!()) (lease_of!("n")) " AS lease_us, " (superseded!()) " AS is_superseded FROM "
            (present!()) now " AS now_us FROM store_meta) q) m CROSS JOIN node n \
             WHERE n.node IN (SELECT e.value FROM json_each($2) e) ORDER BY n.node, n.key"
        }
    ];
}

impl Store {
    /// A page of nodes after one, by id and incarnation. Leases that ended after `since_us` count as if they lasted.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn nodes(
        &self,
        after: Option<&NodeName>,
        limit: i64,
        include_gone: bool,
        since_us: i64,
    ) -> Result<Vec<NodeRow>, Error> {
        let (node, incarnation) = after.map_or(("", ""), |name| (&name.node, &name.incarnation));
        let rows: Vec<StatusRow> = self
            .db()
            .read(&PAGE)
            .bind(since_us)
            .bind(node)
            .bind(incarnation)
            .bind(include_gone)
            .bind(limit)
            .all()
            .await?;
        rows.into_iter().map(NodeRow::try_from).collect()
    }

    /// The nodes that a wait is about: all that live, or everything that is known of those that are named, the newest incarnation of
    /// each last.
    ///
    /// # Errors
    /// If the database does not answer.
    pub async fn wanted_nodes(
        &self,
        wanted: &NodeWanted,
        since_us: i64,
    ) -> Result<Vec<NodeRow>, Error> {
        let rows: Vec<StatusRow> = if wanted.names.is_empty() {
            self.db().read(&LIVE).bind(since_us).all().await?
        } else {
            let named = self.db().read(&NAMED).bind(since_us);
            named.bind(wanted.json()).all().await?
        };
        rows.into_iter().map(NodeRow::try_from).collect()
    }
}
