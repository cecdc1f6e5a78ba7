//! Price lists: whom they are of, how old they are, and asking for them.

use axum::Json;
use axum::extract::{Path, State};
use blueprint_hub_provision_core::catalogue::{PriceError, PriceListView};
use http::StatusCode;
use serde_json::{Map, Value, json};

use crate::AdminState;
use crate::error::ApiError;
use crate::views::time;

pub(crate) async fn list(State(state): State<AdminState>) -> Json<Value> {
    let lists: Vec<_> = state.hub.prices().lists().iter().map(view).collect();
    Json(json!({ "prices": lists }))
}

pub(crate) async fn refresh(
    State(state): State<AdminState>,
    Path(provider): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let list = state.hub.prices().refresh(provider).await?;
    Ok(Json(json!({ "prices": view(&list) })))
}

fn view(list: &PriceListView) -> Value {
    let odd: Map<String, Value> =
        list.odd.iter().map(|(oddity, count)| (oddity.label().to_owned(), json!(count))).collect();
    json!({
        "provider": list.provider,
        "origin": list.origin,
        "asked_at": list.asked_at.map(time),
        "rows": list.rows,
        "regions": list.regions,
        "left_out": odd,
        "error": list.error,
    })
}

impl From<PriceError> for ApiError {
    fn from(error: PriceError) -> Self {
        let text = error.to_string();
        match error {
            PriceError::Unknown { .. } => Self::not_found(text, "`blueprint-hub prices ls` lists them"),
            PriceError::Busy(_) => {
                Self::conflict(text, "wait for it: `blueprint-hub prices ls` shows the answer")
            }
            PriceError::Unreached { .. } => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "prices_not_told",
                text,
                "the prices of before stay in use; see whether this host reaches the internet by HTTPS (its name service, its \
                 firewall), and try again",
            ),
            PriceError::Failed { .. } => Self::new(
                StatusCode::BAD_GATEWAY,
                "prices_not_told",
                text,
                "the prices of before stay in use; try again later, and see whether this host reaches the internet by HTTPS",
            ),
            PriceError::Store(_) => Self::unavailable(text),
        }
    }
}
