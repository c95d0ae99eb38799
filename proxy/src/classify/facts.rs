//! What a query names, taken from PostgreSQL's own grammar.
//!
//! The walk is a white list: a node that is not known here makes the whole statement unproven, so a new kind of syntax can only make
//! a verdict more careful.

use pg_query::NodeEnum;
use pg_query::protobuf as tree;
use tree::Node;

use super::kind::TableName;

/// What stands at the top of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// SELECT, VALUES, TABLE, possibly behind WITH or EXPLAIN.
    Query,
    /// INSERT, UPDATE, DELETE, MERGE, possibly behind WITH or EXPLAIN ANALYZE.
    Dml,
    /// EXPLAIN of one of these, without running it.
    ExplainedDml,
    /// SELECT INTO.
    Into {
        /// INTO TEMP.
        temp: bool,
    },
    /// Not a query.
    Other,
}

/// A possibly qualified function or type.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Named {
    pub(crate) schema: Option<Box<str>>,
    pub(crate) name: Box<str>,
}

/// Everything a query names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) head: Head,
    pub(crate) read: Vec<TableName>,
    pub(crate) written: Vec<TableName>,
    pub(crate) ctes: Vec<Box<str>>,
    pub(crate) functions: Vec<Named>,
    /// Fields behind a dot: each may be a function of one argument in disguise.
    pub(crate) fields: Vec<Box<str>>,
    pub(crate) operators: Vec<Box<str>>,
    pub(crate) types: Vec<Named>,
    /// FOR UPDATE and its like.
    pub(crate) locks: bool,
    /// Some INSERT or MERGE, or SET ... = DEFAULT: column defaults are computed.
    pub(crate) defaults: bool,
    /// Something was met that is not understood.
    pub(crate) unproven: bool,
}

impl Facts {
    /// Of one statement in canonical form; `None`: the grammar refuses it, or it nests too deep to look at.
    pub(crate) fn of(canonical: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(canonical).ok()?;
        let parsed = pg_query::parse(text, 0).ok()?;
        let [statement] = parsed.protobuf.stmts.as_slice() else {
            return None;
        };
        let mut walk = Walk::default();
        let mut head = walk.head(statement.stmt.as_deref()?);
        if let Some(temp) = walk.into {
            head = Head::Into { temp };
        } else if head == Head::Query && !walk.written.is_empty() {
            head = Head::Dml;
        }
        Some(walk.finished(head))
    }

    /// What keeping it costs, in bytes, roughly.
    pub(crate) fn bytes(&self) -> usize {
        let tables = self.read.iter().chain(&self.written);
        let tables: usize = tables
            .map(|table| 48 + table.name.len() + table.schema.as_ref().map_or(0, |s| s.len()))
            .sum();
        let named = self.functions.iter().chain(&self.types);
        let named: usize = named
            .map(|of| 48 + of.name.len() + of.schema.as_ref().map_or(0, |s| s.len()))
            .sum();
        let words = self.ctes.iter().chain(&self.fields).chain(&self.operators);
        let words: usize = words.map(|word| 24 + word.len()).sum();
        256 + tables + named + words
    }
}

#[derive(Default)]
struct Walk {
    read: Vec<TableName>,
    written: Vec<TableName>,
    ctes: Vec<Box<str>>,
    functions: Vec<Named>,
    fields: Vec<Box<str>>,
    operators: Vec<Box<str>>,
    types: Vec<Named>,
    into: Option<bool>,
    locks: bool,
    defaults: bool,
    unproven: bool,
}

fn unique<T: Ord>(mut items: Vec<T>) -> Vec<T> {
    items.sort();
    items.dedup();
    items.shrink_to_fit();
    items
}

fn word(node: &Node) -> Option<&str> {
    match &node.node {
        Some(NodeEnum::String(string)) => Some(&string.sval),
        _ => None,
    }
}

impl Walk {
    fn finished(self, head: Head) -> Facts {
        Facts {
            head,
            read: unique(self.read),
            written: unique(self.written),
            ctes: unique(self.ctes),
            functions: unique(self.functions),
            fields: unique(self.fields),
            operators: unique(self.operators),
            types: unique(self.types),
            locks: self.locks,
            defaults: self.defaults,
            unproven: self.unproven,
        }
    }

    fn head(&mut self, node: &Node) -> Head {
        match &node.node {
            Some(NodeEnum::SelectStmt(select)) => {
                self.select(select);
                Head::Query
            }
            Some(
                NodeEnum::InsertStmt(_)
                | NodeEnum::UpdateStmt(_)
                | NodeEnum::DeleteStmt(_)
                | NodeEnum::MergeStmt(_),
            ) => {
                self.node(node);
                Head::Dml
            }
            Some(NodeEnum::ExplainStmt(explain)) => self.explain(explain),
            _ => {
                self.unproven = true;
                Head::Other
            }
        }
    }

    fn explain(&mut self, explain: &tree::ExplainStmt) -> Head {
        let runs = explain.options.iter().any(|option| match &option.node {
            Some(NodeEnum::DefElem(option)) => option.defname == "analyze",
            _ => true,
        });
        let Some(query) = explain.query.as_deref() else {
            return Head::Other;
        };
        if matches!(query.node, Some(NodeEnum::ExplainStmt(_))) {
            return Head::Other;
        }
        match self.head(query) {
            Head::Dml if !runs => Head::ExplainedDml,
            head => head,
        }
    }

    fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.node(node);
        }
    }

    fn maybe(&mut self, node: Option<&Node>) {
        if let Some(node) = node {
            self.node(node);
        }
    }

    fn node(&mut self, node: &Node) {
        let Some(node) = &node.node else { return };
        match node {
            NodeEnum::AConst(_)
            | NodeEnum::ParamRef(_)
            | NodeEnum::AStar(_)
            | NodeEnum::String(_)
            | NodeEnum::Integer(_)
            | NodeEnum::SqlvalueFunction(_)
            | NodeEnum::MergeSupportFunc(_) => {}
            NodeEnum::SetToDefault(_) => self.defaults = true,
            NodeEnum::ColumnRef(column) => self.fields_of(column.fields.get(1..).unwrap_or_default()),
            NodeEnum::AIndirection(of) => {
                self.maybe(of.arg.as_deref());
                self.fields_of(&of.indirection);
            }
            NodeEnum::AIndices(at) => {
                self.maybe(at.lidx.as_deref());
                self.maybe(at.uidx.as_deref());
            }
            NodeEnum::AExpr(expression) => self.expression(expression),
            NodeEnum::FuncCall(call) => self.call(call),
            NodeEnum::TypeCast(cast) => {
                self.maybe(cast.arg.as_deref());
                self.type_name(cast.type_name.as_ref());
            }
            NodeEnum::SubLink(link) => {
                self.maybe(link.testexpr.as_deref());
                self.operator(&link.oper_name);
                self.maybe(link.subselect.as_deref());
            }
            NodeEnum::CaseExpr(case) => {
                if case.arg.is_some() {
                    self.operators.push("=".into());
                }
                self.maybe(case.arg.as_deref());
                self.nodes(&case.args);
                self.maybe(case.defresult.as_deref());
            }
            NodeEnum::CaseWhen(when) => {
                self.maybe(when.expr.as_deref());
                self.maybe(when.result.as_deref());
            }
            NodeEnum::BoolExpr(of) => self.nodes(&of.args),
            NodeEnum::NullTest(of) => self.maybe(of.arg.as_deref()),
            NodeEnum::BooleanTest(of) => self.maybe(of.arg.as_deref()),
            NodeEnum::CollateClause(of) => self.maybe(of.arg.as_deref()),
            NodeEnum::NamedArgExpr(of) => self.maybe(of.arg.as_deref()),
            NodeEnum::CoalesceExpr(of) => self.nodes(&of.args),
            NodeEnum::MinMaxExpr(of) => self.nodes(&of.args),
            NodeEnum::RowExpr(of) => self.nodes(&of.args),
            NodeEnum::AArrayExpr(of) => self.nodes(&of.elements),
            NodeEnum::List(of) => self.nodes(&of.items),
            NodeEnum::GroupingFunc(of) => self.nodes(&of.args),
            NodeEnum::GroupingSet(of) => self.nodes(&of.content),
            NodeEnum::MultiAssignRef(of) => self.maybe(of.source.as_deref()),
            NodeEnum::SortBy(of) => {
                self.maybe(of.node.as_deref());
                self.operator(&of.use_op);
            }
            NodeEnum::WindowDef(window) => self.window(window),
            NodeEnum::ResTarget(target) => {
                self.nodes(&target.indirection);
                self.maybe(target.val.as_deref());
            }
            NodeEnum::XmlExpr(of) => {
                self.nodes(&of.named_args);
                self.nodes(&of.args);
            }
            NodeEnum::XmlSerialize(of) => {
                self.maybe(of.expr.as_deref());
                self.type_name(of.type_name.as_ref());
            }
            other => self.relation_or_statement(other),
        }
    }

    fn relation_or_statement(&mut self, node: &NodeEnum) {
        match node {
            NodeEnum::RangeVar(table) => {
                if let Some(table) = self.table(table) {
                    self.read.push(table);
                }
            }
            NodeEnum::RangeSubselect(of) => self.maybe(of.subquery.as_deref()),
            NodeEnum::RangeFunction(of) => {
                self.nodes(&of.functions);
                self.nodes(&of.coldeflist);
            }
            NodeEnum::ColumnDef(column) => {
                self.type_name(column.type_name.as_ref());
                self.unproven |= column.raw_default.is_some() || !column.constraints.is_empty();
            }
            NodeEnum::RangeTableSample(of) => {
                let method: Vec<&str> = of.method.iter().filter_map(word).collect();
                self.unproven |= !matches!(method.as_slice(), ["bernoulli" | "system"]);
                self.maybe(of.relation.as_deref());
                self.nodes(&of.args);
                self.maybe(of.repeatable.as_deref());
            }
            NodeEnum::RangeTableFunc(of) => {
                self.maybe(of.docexpr.as_deref());
                self.maybe(of.rowexpr.as_deref());
                self.nodes(&of.namespaces);
                self.nodes(&of.columns);
            }
            NodeEnum::RangeTableFuncCol(column) => {
                self.type_name(column.type_name.as_ref());
                self.maybe(column.colexpr.as_deref());
                self.maybe(column.coldefexpr.as_deref());
            }
            NodeEnum::JoinExpr(join) => {
                if join.is_natural || !join.using_clause.is_empty() {
                    self.operators.push("=".into());
                }
                self.maybe(join.larg.as_deref());
                self.maybe(join.rarg.as_deref());
                self.maybe(join.quals.as_deref());
            }
            NodeEnum::CommonTableExpr(cte) => self.cte(cte),
            NodeEnum::SelectStmt(select) => self.select(select),
            NodeEnum::InsertStmt(insert) => self.insert(insert),
            NodeEnum::UpdateStmt(update) => {
                self.with(update.with_clause.as_ref());
                self.target(update.relation.as_ref());
                self.nodes(&update.target_list);
                self.maybe(update.where_clause.as_deref());
                self.nodes(&update.from_clause);
                self.returning(update.returning_clause.as_ref());
            }
            NodeEnum::DeleteStmt(delete) => {
                self.with(delete.with_clause.as_ref());
                self.target(delete.relation.as_ref());
                self.nodes(&delete.using_clause);
                self.maybe(delete.where_clause.as_deref());
                self.returning(delete.returning_clause.as_ref());
            }
            NodeEnum::MergeStmt(merge) => {
                self.with(merge.with_clause.as_ref());
                self.target(merge.relation.as_ref());
                self.maybe(merge.source_relation.as_deref());
                self.maybe(merge.join_condition.as_deref());
                self.nodes(&merge.merge_when_clauses);
                self.returning(merge.returning_clause.as_ref());
                self.defaults = true;
            }
            NodeEnum::MergeWhenClause(when) => {
                self.maybe(when.condition.as_deref());
                self.nodes(&when.target_list);
                self.nodes(&when.values);
            }
            NodeEnum::IndexElem(element) => {
                self.maybe(element.expr.as_deref());
                self.unproven |= !element.opclass.is_empty();
            }
            _ => self.unproven = true,
        }
    }

    fn select(&mut self, select: &tree::SelectStmt) {
        if let Some(into) = select.into_clause.as_deref() {
            let temp = into
                .rel
                .as_ref()
                .is_some_and(|table| table.relpersistence == "t" || table.schemaname == "pg_temp");
            self.into = Some(temp || self.into == Some(true));
        }
        self.with(select.with_clause.as_ref());
        self.nodes(&select.distinct_clause);
        self.nodes(&select.target_list);
        self.nodes(&select.from_clause);
        self.maybe(select.where_clause.as_deref());
        self.nodes(&select.group_clause);
        self.maybe(select.having_clause.as_deref());
        self.nodes(&select.window_clause);
        self.nodes(&select.values_lists);
        self.nodes(&select.sort_clause);
        self.maybe(select.limit_offset.as_deref());
        self.maybe(select.limit_count.as_deref());
        self.locks |= !select.locking_clause.is_empty();
        for side in [select.larg.as_deref(), select.rarg.as_deref()]
            .into_iter()
            .flatten()
        {
            self.select(side);
        }
    }

    fn insert(&mut self, insert: &tree::InsertStmt) {
        self.defaults = true;
        self.with(insert.with_clause.as_ref());
        self.target(insert.relation.as_ref());
        self.nodes(&insert.cols);
        self.maybe(insert.select_stmt.as_deref());
        self.returning(insert.returning_clause.as_ref());
        if let Some(conflict) = insert.on_conflict_clause.as_deref() {
            if let Some(infer) = conflict.infer.as_deref() {
                self.nodes(&infer.index_elems);
                self.maybe(infer.where_clause.as_deref());
            }
            self.nodes(&conflict.target_list);
            self.maybe(conflict.where_clause.as_deref());
        }
    }

    fn with(&mut self, with: Option<&tree::WithClause>) {
        if let Some(with) = with {
            self.nodes(&with.ctes);
        }
    }

    fn cte(&mut self, cte: &tree::CommonTableExpr) {
        self.ctes.push(cte.ctename.as_str().into());
        self.maybe(cte.ctequery.as_deref());
        if let Some(cycle) = cte.cycle_clause.as_deref() {
            self.maybe(cycle.cycle_mark_value.as_deref());
            self.maybe(cycle.cycle_mark_default.as_deref());
        }
    }

    fn returning(&mut self, returning: Option<&tree::ReturningClause>) {
        if let Some(returning) = returning {
            self.nodes(&returning.exprs);
        }
    }

    fn target(&mut self, table: Option<&tree::RangeVar>) {
        match table.and_then(|table| self.table(table)) {
            Some(table) => self.written.push(table),
            None => self.unproven = true,
        }
    }

    fn table(&mut self, table: &tree::RangeVar) -> Option<TableName> {
        if !table.catalogname.is_empty() {
            self.unproven = true;
        }
        let schema = (!table.schemaname.is_empty()).then(|| table.schemaname.as_str().into());
        Some(TableName {
            schema,
            name: table.relname.as_str().into(),
        })
    }

    fn window(&mut self, window: &tree::WindowDef) {
        self.nodes(&window.partition_clause);
        self.nodes(&window.order_clause);
        self.maybe(window.start_offset.as_deref());
        self.maybe(window.end_offset.as_deref());
    }

    fn call(&mut self, call: &tree::FuncCall) {
        match self.named(&call.funcname) {
            Some(named) => self.functions.push(named),
            None => self.unproven = true,
        }
        self.nodes(&call.args);
        self.nodes(&call.agg_order);
        self.maybe(call.agg_filter.as_deref());
        if let Some(over) = call.over.as_deref() {
            self.window(over);
        }
    }

    fn expression(&mut self, expression: &tree::AExpr) {
        use tree::AExprKind as K;
        match K::try_from(expression.kind) {
            Ok(K::AexprBetween | K::AexprNotBetween | K::AexprBetweenSym | K::AexprNotBetweenSym) => {
                self.operators.extend(["<", ">", "<=", ">="].map(Into::into));
            }
            Ok(K::Undefined) | Err(_) => self.unproven = true,
            Ok(_) => self.operator(&expression.name),
        }
        self.maybe(expression.lexpr.as_deref());
        self.maybe(expression.rexpr.as_deref());
    }

    /// An operator's name without its schema; nothing for an empty list.
    fn operator(&mut self, name: &[Node]) {
        if let Some(last) = name.last() {
            match word(last) {
                Some(name) => self.operators.push(name.into()),
                None => self.unproven = true,
            }
        }
    }

    fn fields_of(&mut self, fields: &[Node]) {
        for field in fields {
            match &field.node {
                Some(NodeEnum::String(name)) => self.fields.push(name.sval.as_str().into()),
                _ => self.node(field),
            }
        }
    }

    fn type_name(&mut self, of: Option<&tree::TypeName>) {
        let Some(of) = of else { return };
        match self.named(&of.names) {
            Some(named) if !of.pct_type => self.types.push(named),
            _ => self.unproven = true,
        }
        self.nodes(&of.typmods);
    }

    fn named(&self, names: &[Node]) -> Option<Named> {
        match names {
            [name] => Some(Named {
                schema: None,
                name: word(name)?.into(),
            }),
            [schema, name] => Some(Named {
                schema: Some(word(schema)?.into()),
                name: word(name)?.into(),
            }),
            _ => None,
        }
    }
}
