//! An answer in XML as a tree, read without its namespaces.
//!
//! Bounded in depth and number of elements; what an entity stands for is never fetched, and a document type is refused.

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Deepest nesting that is read; answers of EC2 have at most ten levels.
const MAX_DEPTH: usize = 32;

/// Most elements that are read; a page of 1000 machines has about 200,000.
const MAX_NODES: usize = 1_000_000;

/// An answer that is no XML, or more of it than is read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the answer is no XML that can be read: {0}")]
pub(crate) struct XmlError(String);

/// One element.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Node {
    name: String,
    text: String,
    children: Vec<Self>,
}

impl Node {
    /// The outermost element of a document.
    ///
    /// # Errors
    ///
    /// Where it is no XML, is not whole, or goes beyond a bound.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, XmlError> {
        let mut reader = Reader::from_reader(text);
        // The first is no element; what ends up in it is the document.
        let mut open = vec![Self::default()];
        let mut nodes = 0usize;
        loop {
            let event = reader.read_event().map_err(|error| XmlError(error.to_string()))?;
            match event {
                Event::Start(start) => {
                    nodes = nodes.saturating_add(1);
                    if open.len() >= MAX_DEPTH || nodes > MAX_NODES {
                        return Err(XmlError("it is larger than any answer of EC2".to_owned()));
                    }
                    open.push(Self::named(&start));
                }
                Event::Empty(start) => {
                    nodes = nodes.saturating_add(1);
                    let node = Self::named(&start);
                    Self::last(&mut open)?.children.push(node);
                }
                Event::End(_) => {
                    let node = open.pop().ok_or_else(|| XmlError("it ends too often".to_owned()))?;
                    Self::last(&mut open)?.children.push(node);
                }
                Event::Text(text) => Self::last(&mut open)?.text.push_str(&text.xml10_content()),
                Event::CData(data) => Self::last(&mut open)?.text.push_str(&data.xml10_content()),
                Event::GeneralRef(reference) => {
                    let resolved =
                        reference.resolve_char_ref().map_err(|error| XmlError(error.to_string()))?;
                    let plain = resolved.or_else(|| predefined(&reference.xml10_content()));
                    let plain = plain.ok_or_else(|| XmlError("it names an entity".to_owned()))?;
                    Self::last(&mut open)?.text.push(plain);
                }
                Event::DocType(_) => return Err(XmlError("it has a document type".to_owned())),
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
                Event::Eof => break,
            }
        }
        match (open.len(), open.pop().map(|document| document.children)) {
            (1, Some(mut children)) if children.len() == 1 => Ok(children.remove(0)),
            _ => Err(XmlError("it is not one whole element".to_owned())),
        }
    }

    /// The first element of this name within.
    pub(crate) fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The text of the first element of this name within, without space around it; `None` where there is none.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.trim())
    }

    /// The elements `item` of the list of this name within; none where it is not there.
    pub(crate) fn items(&self, list: &str) -> impl Iterator<Item = &Self> {
        let children = self.child(list).into_iter().flat_map(|list| &list.children);
        children.filter(|child| child.name == "item")
    }

    fn named(start: &BytesStart<'_>) -> Self {
        Self { name: start.local_name().as_ref().to_owned(), ..Self::default() }
    }

    fn last(open: &mut [Self]) -> Result<&mut Self, XmlError> {
        open.last_mut().ok_or_else(|| XmlError("it ends too often".to_owned()))
    }
}

fn predefined(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_texts_and_lists_are_found_whatever_else_there_is() {
        let node = Node::parse(
            br#"<?xml version="1.0" encoding="UTF-8"?>
            <Answer xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><!-- x --><new thing="1"/>
              <set><item><id> a&amp;b&#x41;&lt;</id></item><item><id><![CDATA[<c>]]></id></item><other/></set>
              <ns:empty/>
            </Answer>"#,
        )
        .unwrap();
        let ids: Vec<_> = node.items("set").map(|item| item.text("id").unwrap()).collect();
        assert_eq!(ids, ["a&bA<", "<c>"]);
        assert_eq!(node.text("empty"), Some(""));
        assert_eq!(node.text("nothing"), None);
        assert_eq!(node.items("nothing").count(), 0);
    }

    #[test]
    fn what_is_no_whole_document_is_refused() {
        for wrong in [
            "",
            "text",
            "<a>",
            "<a></b>",
            "</a>",
            "<a/><b/>",
            "<a>&x;</a>",
            "<a>&#xFFFFFFFF;</a>",
            "{\"a\":1}",
            "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>",
        ] {
            assert!(Node::parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let deep = "<a>".repeat(10_000);
        assert!(Node::parse(deep.as_bytes()).is_err());
        assert!(Node::parse(&[b'<', 0xff, b'/', b'>']).is_err());
    }
}
