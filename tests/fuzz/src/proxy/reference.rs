//! A naive reader of a connection of HTTP/1 (RFC 9112 without its leniencies), over all of its bytes at once.

use blueprint_hub_proxy_core::MAX_HEADERS;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) method: Vec<u8>,
    pub(super) target: Vec<u8>,
    /// `None` where it is not whole.
    pub(super) body: Option<Vec<u8>>,
}

/// All that there is on a connection.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Requests whose head is whole.
    pub(super) requests: Vec<Message>,
    /// Bytes that may go on: to the end, to the start of what is not whole, or of what is wrong.
    pub(super) passes: usize,
    pub(super) is_fault: bool,
}

/// Why reading ends.
pub(super) enum End {
    Missing,
    Wrong,
}

/// Bytes from a place on.
#[derive(Clone, Copy)]
pub(super) struct Rest<'b>(pub(super) &'b [u8]);

impl<'b> Rest<'b> {
    /// Takes a line without its end.
    pub(super) fn line(&mut self) -> Result<&'b [u8], End> {
        let all: &'b [u8] = self.0;
        let text = all.split(|byte| *byte == b'\n').next().unwrap_or_default();
        if text.len() == all.len() {
            return Err(End::Missing);
        }
        let line = text.strip_suffix(b"\r").ok_or(End::Wrong)?;
        if line.contains(&b'\r') {
            return Err(End::Wrong);
        }
        self.0 = &all[text.len() + 1..];
        Ok(line)
    }

    pub(super) fn take(&mut self, count: u64) -> &'b [u8] {
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }
}

/// Reads everything.
pub(super) fn read(bytes: &[u8]) -> Reading {
    let mut reading = Reading::default();
    let mut rest = Rest(bytes);
    let end = loop {
        reading.passes = bytes.len() - rest.0.len();
        if rest.0.is_empty() {
            break End::Missing;
        }
        match message(&mut rest, &mut reading, bytes.len()) {
            Ok(()) => {}
            Err(end) => break end,
        }
    };
    reading.is_fault = matches!(end, End::Wrong);
    reading
}

fn message(rest: &mut Rest<'_>, reading: &mut Reading, all: usize) -> Result<(), End> {
    let mut line = rest.line()?;
    for _ in 0..2 {
        if line.is_empty() {
            line = rest.line()?;
        }
    }
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { return Err(End::Wrong) };
    let is_new = match version {
        b"HTTP/1.1" => true,
        b"HTTP/1.0" => false,
        _ => return Err(End::Wrong),
    };
    let is_graphic = target.iter().all(u8::is_ascii_graphic);
    if !is_token(method) || target.is_empty() || !is_graphic {
        return Err(End::Wrong);
    }
    let (mut lengths, mut encodings, mut fields) = (Vec::new(), Vec::new(), 0);
    loop {
        let line = rest.line()?;
        if line.is_empty() {
            break;
        }
        fields += 1;
        let (name, value) = field(line)?;
        let is_name = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        if is_name("content-length") {
            lengths.push(value.to_vec());
        } else if is_name("transfer-encoding") {
            encodings.push(value.to_ascii_lowercase());
        }
        // Each is looked at when its line is there, whether or not the head is ever whole.
        let is_number =
            |text: &Vec<u8>| (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
        let is_good = lengths.len() <= 1
            && encodings.len() <= 1
            && lengths.iter().all(is_number)
            && encodings.iter().all(|encoding| is_new && encoding == b"chunked");
        if !is_good || fields > MAX_HEADERS {
            return Err(End::Wrong);
        }
    }
    if !lengths.is_empty() && !encodings.is_empty() {
        return Err(End::Wrong);
    }
    reading.passes = all - rest.0.len();
    reading.requests.push(Message { method: method.to_vec(), target: target.to_vec(), body: None });
    let body = match lengths.first() {
        Some(length) => {
            let length: u64 = String::from_utf8_lossy(length).parse().map_err(|_| End::Wrong)?;
            let body = rest.take(length).to_vec();
            reading.passes = all - rest.0.len();
            if u64::try_from(body.len()).unwrap() < length {
                return Err(End::Missing);
            }
            body
        }
        None if encodings.is_empty() => Vec::new(),
        None => chunked(rest, reading, all)?,
    };
    if let Some(last) = reading.requests.last_mut() {
        last.body = Some(body);
    }
    Ok(())
}

fn chunked(rest: &mut Rest<'_>, reading: &mut Reading, all: usize) -> Result<Vec<u8>, End> {
    let mut body = Vec::new();
    loop {
        reading.passes = all - rest.0.len();
        let mut short = Rest(rest.0.get(..18).unwrap_or(rest.0));
        let line = match short.line() {
            Ok(line) => line,
            Err(End::Missing) if rest.0.len() >= 18 => return Err(End::Wrong),
            Err(end) => return Err(end),
        };
        if line.is_empty() || !line.iter().all(u8::is_ascii_hexdigit) {
            return Err(End::Wrong);
        }
        rest.take(u64::try_from(line.len() + 2).unwrap());
        reading.passes = all - rest.0.len();
        let size = line
            .iter()
            .fold(0u64, |size, digit| size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap()));
        if size == 0 {
            break;
        }
        let data = rest.take(size);
        reading.passes = all - rest.0.len();
        body.extend_from_slice(data);
        if u64::try_from(data.len()).unwrap() < size {
            return Err(End::Missing);
        }
        match rest.0 {
            [b'\r', b'\n', ..] => drop(rest.take(2)),
            [] | [b'\r'] => return Err(End::Missing),
            _ => return Err(End::Wrong),
        }
    }
    for count in 0.. {
        if count >= MAX_HEADERS && !rest.0.is_empty() {
            return Err(End::Wrong);
        }
        let line = rest.line()?;
        if line.is_empty() {
            break;
        }
        field(line)?;
        reading.passes = all - rest.0.len();
    }
    Ok(body)
}

pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), End> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(End::Wrong)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_text = value.iter().all(|byte| *byte == b'\t' || *byte >= b' ' && *byte != 0x7f);
    if !is_token(name) || !is_text {
        return Err(End::Wrong);
    }
    let text: &[u8] = value;
    let mut text = text;
    while let [b' ' | b'\t', inner @ ..] | [inner @ .., b' ' | b'\t'] = text {
        text = inner;
    }
    Ok((name, text))
}

fn is_token(text: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(is_part)
}
