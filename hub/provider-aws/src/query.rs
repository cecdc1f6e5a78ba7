//! The parameters of a call, as the query interface of EC2 and STS reads them: numbered lists, one form.

/// The parameters of one call, in the order they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Query {
    rows: Vec<(String, String)>,
    filters: u32,
    tagged: u32,
}

impl Query {
    /// Adds one parameter.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.rows.push((name.to_owned(), value.into()));
        self
    }

    /// Adds a list: `NAME.1`, `NAME.2`, ...
    pub(crate) fn list<'a>(mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        for (number, value) in (1u32..).zip(values) {
            self.rows.push((format!("{name}.{number}"), value.to_owned()));
        }
        self
    }

    /// Adds a filter: what is asked for has one of `values`.
    pub(crate) fn filter<'a>(mut self, name: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.filters = self.filters.saturating_add(1);
        let prefix = format!("Filter.{}", self.filters);
        self.with(&format!("{prefix}.Name"), name).list(&format!("{prefix}.Value"), values)
    }

    /// Adds tags for what the call makes of this kind.
    pub(crate) fn tagged(mut self, kind: &str, tags: &[(&str, String)]) -> Self {
        self.tagged = self.tagged.saturating_add(1);
        let prefix = format!("TagSpecification.{}", self.tagged);
        let mut query = self.with(&format!("{prefix}.ResourceType"), kind);
        for (number, (name, value)) in (1u32..).zip(tags) {
            query = query
                .with(&format!("{prefix}.Tag.{number}.Key"), *name)
                .with(&format!("{prefix}.Tag.{number}.Value"), value);
        }
        query
    }

    /// The body of the request, for this action of this version of the interface.
    pub(crate) fn form(&self, action: &str, version: &str) -> String {
        let head = [("Action", action), ("Version", version)];
        let rows = self.rows.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        // Pairs of texts are always written.
        serde_urlencoded::to_string(head.into_iter().chain(rows).collect::<Vec<_>>()).unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.rows.iter().find(|(of, _)| of == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_filters_and_tags_are_numbered_from_one() {
        let query = Query::default()
            .with("MinCount", "1")
            .list("InstanceId", ["i-1", "i-2"])
            .filter("tag-key", ["a"])
            .filter("state", ["b", "c"])
            .tagged("instance", &[("Name", "x y".to_owned())])
            .tagged("volume", &[("k", "+&=\u{e4}".to_owned())]);
        assert_eq!(
            query.form("RunInstances", "2016-11-15"),
            "Action=RunInstances&Version=2016-11-15&MinCount=1&InstanceId.1=i-1&InstanceId.2=i-2\
             &Filter.1.Name=tag-key&Filter.1.Value.1=a&Filter.2.Name=state&Filter.2.Value.1=b&Filter.2.Value.2=c\
             &TagSpecification.1.ResourceType=instance&TagSpecification.1.Tag.1.Key=Name\
             &TagSpecification.1.Tag.1.Value=x+y&TagSpecification.2.ResourceType=volume\
             &TagSpecification.2.Tag.1.Key=k&TagSpecification.2.Tag.1.Value=%2B%26%3D%C3%A4"
        );
    }
}
