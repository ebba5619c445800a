//! `steadfast icon`.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use steadfast_client::{
    Connection, Error as CallError,
    api::registry::v1::{
        GetIconRequest, GetIconResponse, Icon, IconFormat, IconShape, ListIconsRequest,
    },
};

use crate::{
    commands::{Session, pages},
    failure::{Exit, Failure},
    json,
    output::note,
    table,
};

#[derive(Debug, Subcommand)]
pub(crate) enum IconCommand {
    /// Save a package's icon, or say what it is
    ///
    /// Without --file the icon goes to standard output, unless that is a terminal, which is told about it instead.
    Get(GetArgs),
    /// List the icons that there are
    List(ListArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// NAME, without a version
    package: String,
    /// What it looks like
    #[arg(long, value_enum, default_value_t = Shape::Square)]
    shape: Shape,
    /// What it is made of; left out, PNG, and SVG where there is no PNG
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Where to save it
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Shape {
    Square,
    Rectangle,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Png,
    Svg,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Keep packages whose name contains this text
    #[arg(default_value = "", hide_default_value = true)]
    query: String,
    /// The most icons to list
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

/// How much of an etag tells icons apart.
const ETAG_LENGTH: usize = 12;

pub(crate) async fn run(command: IconCommand, session: &Session) -> Result<Exit, Failure> {
    let connection = session.connect().await?;
    match command {
        IconCommand::Get(args) => get(args, &connection, session).await,
        IconCommand::List(args) => list(args, &connection, session).await,
    }
}

async fn get(args: GetArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let shape = match args.shape {
        Shape::Square => IconShape::Square,
        Shape::Rectangle => IconShape::Rectangle,
    };
    let format = match args.format {
        None => IconFormat::Unspecified,
        Some(Format::Png) => IconFormat::Png,
        Some(Format::Svg) => IconFormat::Svg,
    };
    let request = GetIconRequest {
        package: args.package.clone(),
        shape: shape.into(),
        format: format.into(),
        ..GetIconRequest::default()
    };
    let answer = once_fetched(request, connection, session)
        .await
        .map_err(|error| Failure::from(&error).about_specifier(&error, &args.package))?;
    let icon = answer.icon.clone().unwrap_or_default();
    if let Some(file) = &args.file {
        save(file, &answer.data)?;
    } else if !session.output.is_json() && !io::stdout().is_terminal() {
        let mut stdout = io::stdout().lock();
        stdout.write_all(&answer.data)?;
        stdout.flush()?;
        return Ok(Exit::Success);
    }
    session.output.print(
        || icon_text(&icon, args.file.as_deref()),
        || {
            let mut fields = json!({
                "icon": json::icon(&icon),
                "read_state": json::read_state(answer.read_state.as_ref()),
            });
            match &args.file {
                Some(file) => fields["file"] = file.display().to_string().into(),
                None => fields["data"] = STANDARD.encode(&answer.data).into(),
            }
            fields
        },
    )?;
    Ok(Exit::Success)
}

/// Asks again as long as the server says that the icon is on its way, up to the time that one answer may take.
async fn once_fetched(
    request: GetIconRequest,
    connection: &Connection,
    session: &Session,
) -> Result<GetIconResponse, CallError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let mut client = connection.icons();
        let asked = connection.call(client.get_icon(request.clone())).await;
        let error = match asked {
            Err(error) if error.reason == "ICON_NOT_FETCHED" => error,
            outcome => return outcome,
        };
        let wait = error.retry_after.unwrap_or_default();
        if began.elapsed() + wait >= session.timeout() {
            return Err(error);
        }
        if !told {
            note("the server fetches it; asking again");
            told = true;
        }
        tokio::time::sleep(wait).await;
    }
}

/// Writes a file beside the place and moves it there, so that there is never half of one.
fn save(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error| Failure::file(path, &error))
}

fn icon_text(icon: &Icon, file: Option<&Path>) -> String {
    table::of_fields([
        ("package", table::clean(&icon.package)),
        ("shape", json::icon_shape(icon.shape)),
        ("format", json::icon_format(icon.format)),
        ("size", table::size(icon.size)),
        ("etag", icon.etag.clone()),
        ("path", icon.path.clone()),
        (
            "file",
            file.map_or_else(String::new, |file| file.display().to_string()),
        ),
    ])
}

async fn list(args: ListArgs, connection: &Connection, session: &Session) -> Result<Exit, Failure> {
    let mut client = connection.icons();
    let ask = async |page_size, page_token| {
        let request = ListIconsRequest {
            page_size,
            page_token,
            query: args.query.clone(),
            min_revision: None,
        };
        connection.call(client.list_icons(request)).await
    };
    let (icons, last) = pages::read(args.limit, ask, |answer| {
        (&mut answer.icons, &mut answer.next_page_token)
    })
    .await?;
    session.output.print(
        || list_text(&icons, last.total_size, &args.query),
        || {
            let icons: Vec<_> = icons.iter().map(json::icon).collect();
            json!({
                "icons": icons,
                "total_size": last.total_size,
                "read_state": json::read_state(last.read_state.as_ref()),
            })
        },
    )?;
    Ok(Exit::Success)
}

fn list_text(icons: &[Icon], total: i32, query: &str) -> String {
    if icons.is_empty() {
        return if query.is_empty() {
            "no icons yet: give a [[catalog.source]] an icon_url, and run `steadfast refresh`"
                .to_owned()
        } else {
            format!(
                "no package with an icon contains {query:?}: `steadfast icon list` shows them all"
            )
        };
    }
    let mut rows = table::with_head(&["PACKAGE", "SHAPE", "FORMAT", "SIZE", "ETAG", "PATH"]);
    for icon in icons {
        rows.add_row([
            table::clean(&icon.package),
            json::icon_shape(icon.shape),
            json::icon_format(icon.format),
            table::size(icon.size),
            icon.etag.chars().take(ETAG_LENGTH).collect(),
            icon.path.clone(),
        ]);
    }
    let shown = pages::shown(icons.len(), total, "icon");
    format!("{}\n\n{shown}", table::text(&rows))
}
