//! What the Kubernetes API checks beyond types and ranges: the rules of `crate::convert` that CEL can say.
//!
//! Every text and list that a rule touches is bounded in the schema, or the API would refuse the rule for its cost.
//! Defaults are filled in before rules are asked, so only what has no default needs `has`.

/// One rule.
pub(super) struct Rule {
    /// Where `self` is.
    pub(super) at: &'static str,
    /// What must hold.
    pub(super) holds: &'static str,
    /// What is said otherwise.
    pub(super) message: &'static str,
}

pub(super) const RULES: &[Rule] = &[
    Rule {
        at: "",
        holds: "self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        message: "metadata.name must be at most 40 of a-z, 0-9 and - (not first or last)",
    },
    Rule {
        at: "spec",
        holds: "!has(self.master.weight)",
        message: "master.weight is of replicas only: to let the master take reads, list it in replicas too",
    },
    Rule {
        at: "spec",
        holds: "!(has(self.master.podName) && has(self.master.host)) && \
                (self.selector.size() > 0 || has(self.master.podName) || has(self.master.host))",
        message: "master must have exactly one of podName and host (with selector: at most one)",
    },
    Rule {
        at: "spec",
        holds: "self.selector.size() == 0 || self.replicas.size() == 0",
        message: "replicas must be empty where selector finds the servers",
    },
    Rule {
        at: "spec.replicas[]",
        holds: "has(self.podName) != has(self.host)",
        message: "must have exactly one of podName and host",
    },
    Rule {
        at: "spec",
        holds: "self.replicas.all(r, ((has(r.host) && has(self.master.host) && r.host == self.master.host) || \
                (has(r.podName) && has(self.master.podName) && r.podName == self.master.podName)) && \
                r.port == self.master.port ? r.name == self.master.name : r.name != self.master.name)",
        message: "a replica of the master's name must have the master's address, and no other may have it",
    },
    Rule {
        at: "spec.replicas",
        holds: "self.all(r, self.all(q, ((has(r.host) && has(q.host) && r.host == q.host) || \
                (has(r.podName) && has(q.podName) && r.podName == q.podName)) && \
                r.port == q.port ? r.name == q.name : r.name != q.name))",
        message: "replicas of one name must have one address, and of two names two",
    },
    Rule {
        at: "spec",
        holds: "!has(self.switchover) || self.selector.size() > 0 || self.switchover.to == self.master.name || \
                self.replicas.exists(r, r.name == self.switchover.to)",
        message: "switchover.to must name the master or a replica",
    },
    Rule {
        at: "spec",
        holds: "!has(self.switchover) || \
                (self.switchover.to == self.master.name ? self.master.failoverPriority > 0 : \
                self.replicas.all(r, r.name != self.switchover.to || r.failoverPriority > 0))",
        message: "switchover.to has failoverPriority 0: it is never promoted",
    },
    Rule {
        at: "spec",
        holds: "self.durability.mode == 'Async' || self.selector.size() > 0 || \
                self.durability.syncReplicas <= self.replicas.filter(r, r.name != self.master.name).size()",
        message: "durability.syncReplicas must be less than the number of servers",
    },
    Rule {
        at: "spec",
        holds: "!self.ha.enabled || has(self.adminSecretRef)",
        message: "adminSecretRef is missing: ha.enabled needs the operator's login",
    },
    Rule {
        at: "spec.tls",
        holds: "self.mode != 'require' || has(self.certSecretRef)",
        message: "certSecretRef is missing: mode require needs a certificate",
    },
    Rule {
        at: "spec.tls",
        holds: "!has(self.clientCaSecretRef) || has(self.certSecretRef)",
        message: "clientCaSecretRef is of no use without certSecretRef",
    },
    Rule {
        at: "spec.auth",
        holds: "self.hba.size() > 0",
        message: "hba must have at least one line, or nobody can log in",
    },
    Rule {
        at: "spec.auth",
        holds: "self.hba.all(line, line.matches('^[ \\t]*(local|host|hostssl|hostnossl|hostgssenc|hostnogssenc)[ \\t]\
                .*[ \\t](trust|reject|scram-sha-256|md5|password|cert)([ \\t].*)?$'))",
        message: "hba lines are: local|host|hostssl|hostnossl|hostgssenc|hostnogssenc database user [address] \
                  trust|reject|scram-sha-256|md5|password|cert [option=value]",
    },
    Rule {
        at: "spec.idleExemptions[]",
        holds: "has(self.user) || has(self.database) || has(self.applicationName) || has(self.address)",
        message: "must have user, database, applicationName or address",
    },
    Rule {
        at: "spec.clientRules[]",
        holds: "has(self.user) || has(self.database) || has(self.applicationName) || has(self.address)",
        message: "must have user, database, applicationName or address",
    },
    Rule {
        at: "spec.proxy.autoscaling",
        holds: "self.minReplicas <= self.maxReplicas",
        message: "minReplicas must be at most maxReplicas",
    },
];
