//! The console's forms, submitted without a browser.

use super::*;

/// Loads a page of the console with this login.
async fn page(it: &Administered, cookie: &str, path: &str) -> String {
    let answer = it.cluster.http.get(format!("{}{path}", it.admin[0])).header("Cookie", cookie).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK, "{path}");
    answer.text().await.unwrap()
}

/// Logs in and returns the cookie.
async fn log_in(it: &Administered) -> String {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let form = http.post(format!("{}/login", it.admin[0])).header("Content-Type", FORM).body(format!("token={TOKEN}"));
    let answer = form.send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    answer.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned()
}

const FORM: &str = "application/x-www-form-urlencoded";

/// The hidden fields of the first form on a page that has this field.
fn fields<'a>(page: &'a str, field: &str) -> Vec<(&'a str, &'a str)> {
    let form = page.split("<form").find(|form| form.contains(field)).expect("there is such a form");
    let form = form.split("</form>").next().unwrap();
    let hidden = form.split("<input type=\"hidden\" name=\"").skip(1);
    hidden
        .map(|input| input.split_once("\" value=\"").unwrap())
        .map(|(name, rest)| (name, rest.split('"').next().unwrap()))
        .collect()
}

/// A device may have any name; one that looks empty must not mean all devices.
#[tokio::test]
async fn a_button_means_the_device_beside_it_whatever_it_is_called() {
    let it = administered(1, &[]).await;
    let user = it.cluster.user();
    let mut nameless = socket(&it.cluster, 0, &user, None, Some(" ")).await;
    let _phone = socket(&it.cluster, 0, &user, None, Some("phone")).await;
    it.cluster.pushed(&user, APP, json!({ "clientId": " ", "changes": [insert("tasks", "a", "Milk", AT)] })).await;
    let cookie = log_in(&it).await;
    let shown = page(&it, &cookie, &format!("/user?id={}", user.id)).await;
    let fields = fields(&shown, "name=\"device\" value=\" \"");
    let sent = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(&fields).finish();
    let request = it.cluster.http.post(format!("{}/actions/disconnect", it.admin[0]));
    let request = request.header("Cookie", &cookie).header("Content-Type", FORM).body(sent);
    let said = request.send().await.unwrap().text().await.unwrap();
    assert!(said.contains("1 session was ended"), "{said}");
    assert_eq!(closed(&mut nameless).await, Some(1012));
    assert_eq!(it.user(0, &user).await["sessionsTotal"], 1, "the phone is still there");
}
