//! What comes in, and what names go out.

use std::path::{Path, PathBuf};

use convert::cli::FolderArgs;
use convert::{Checkpoint, OutType};
use gguf::cli::{Common, names_folder};
use gguf::{Error, Result, Source, TensorType};
use quantize::plan::Plan;
use quantize::recipe::FILE_TYPES;

use super::folder::FolderType;

/// A model that was opened.
pub enum Opened {
    /// A checkpoint folder.
    Folder(Box<Checkpoint>),
    /// A GGUF file.
    File(Box<dyn Source + Send>),
}

impl Opened {
    /// Opens a checkpoint folder (for its projector file, if that is wanted) or a GGUF file. Packed weights that are not
    /// complete by themselves are decoded.
    pub fn open(path: &Path, reading: &FolderArgs, projector: bool, common: &Common) -> Result<Opened> {
        if path.is_dir() {
            let options = reading.options(OutType::Auto, convert::packed::Blocks::Alone, common)?;
            let options = convert::Options { projector, ..options };
            return Ok(Opened::Folder(Box::new(Checkpoint::open(path, &options)?)));
        }
        if let Some(option) = reading.given() {
            return Err(Error::usage(format!("{option} is about a checkpoint folder, and this is a file"))
                .at(path)
                .help("leave it out, or give the folder"));
        }
        if projector {
            return Err(Error::usage("--mmproj is for a checkpoint folder")
                .at(path)
                .help("a projector file needs no option"));
        }
        if gguf::split::parse(path).is_some() {
            return Ok(Opened::File(gguf::split::open(path)?));
        }
        convert::open(path, &convert::Options::default()).map(Opened::File)
    }

    /// The model.
    pub fn source(&self) -> &(dyn Source + Send) {
        match self {
            Opened::Folder(checkpoint) => checkpoint.as_ref(),
            Opened::File(file) => file.as_ref(),
        }
    }

    /// What a file of this type is called where nobody says: of a folder as its conversion is, of a file as that.
    pub fn file_name(&self, input: &Path, ty: &str) -> String {
        match self {
            Opened::Folder(checkpoint) => checkpoint.file_name_of(ty),
            Opened::File(_) => format!("{}-{ty}.gguf", name(input)),
        }
    }
}

/// The shard of each tensor of a split model, in the order of the source.
pub fn shards(path: &Path) -> Result<Vec<usize>> {
    if gguf::split::parse(path).is_none() || !path.is_file() {
        return Err(Error::usage("is no split GGUF model, so there is no split to keep")
            .at(path)
            .help("give the first shard, NAME-00001-of-0000N.gguf, or leave --keep-split out"));
    }
    let splits = gguf::split::Splits::new(gguf::File::open(path)?)?;
    let sizes = splits.files().iter().map(|file| file.tensors().len());
    Ok(sizes.enumerate().flat_map(|(shard, n)| std::iter::repeat_n(shard, n)).collect())
}

/// Every file that a run reads: what its record names and no output replaces.
pub fn read(input: &Path, args: &super::Args) -> Result<Vec<PathBuf>> {
    let mut all = convert::files::of_model(input);
    for (adapter, _) in &args.reading.merge_lora {
        all.extend(convert::files::of_model(&convert::location::find(adapter, &args.common)?));
    }
    if let Some(target) = &args.reading.target_model_dir {
        all.extend(convert::files::of_model(target));
    }
    let side = [&args.importance.imatrix, &args.choice.plan, &args.choice.plan_from, &args.choice.tensor_type_file];
    all.extend(side.into_iter().chain([&args.reading.metadata]).flatten().cloned());
    Ok(all)
}

/// The model's name by its file, without what tells a type or a shard: `tiny` for `tiny-bf16.gguf`.
fn name(input: &Path) -> String {
    let stem = match gguf::split::parse(input) {
        Some((prefix, ..)) => prefix.file_name().map(|n| n.to_os_string()),
        None => input.file_stem().map(|n| n.to_os_string()),
    };
    let stem = stem.map_or_else(|| "model".to_owned(), |s| s.to_string_lossy().into_owned());
    let name = stem.as_str();
    let is_type =
        |part: &str| FILE_TYPES.iter().any(|t| t.name.eq_ignore_ascii_case(part)) || part.parse::<TensorType>().is_ok();
    match name.rsplit_once(['-', '.']) {
        Some((front, last)) if is_type(last) && !front.is_empty() => front.to_owned(),
        _ => name.to_owned(),
    }
}

/// How many outputs of each kind a run makes.
#[derive(Clone, Copy)]
pub struct Kinds {
    pub files: usize,
    pub folders: usize,
}

impl Kinds {
    /// Whether the outputs go into a folder of this name. A single folder for transformers is of that name itself.
    pub fn go_into(self, output: &Path) -> bool {
        let several = self.files + self.folders > 1;
        !names_types(output) && (several || (names_folder(output) && self.folders == 0))
    }
}

/// The folder that outputs lie in.
pub fn place(output: Option<&Path>, kinds: Kinds) -> PathBuf {
    match output {
        Some(folder) if kinds.go_into(folder) => folder.to_path_buf(),
        Some(file) => file.parent().map(Path::to_path_buf).unwrap_or_default(),
        None => PathBuf::new(),
    }
}

/// Stands for the type in the name of an output.
const TYPE_MARK: &str = "{ftype}";

/// Whether an output's name has a place for the type.
pub fn names_types(output: &Path) -> bool {
    output.to_str().is_some_and(|text| text.contains(TYPE_MARK))
}

/// Where the outputs of a run go: the files of each plan, then each folder.
pub struct Targets {
    pub files: Vec<Vec<PathBuf>>,
    pub folders: Vec<PathBuf>,
}

/// Chooses the places of all outputs.
pub fn targets(
    model: Option<&Opened>,
    input: &Path,
    output: Option<&Path>,
    plans: &[Plan],
    folders: &[FolderType],
) -> Targets {
    let file =
        |plan: &Plan| PathBuf::from(model.map_or_else(String::new, |model| model.file_name(input, plan.label())));
    let folder = |ty: &FolderType| PathBuf::from(format!("{}-{}", convert::location::model_name(input), ty.name()));
    let kinds = Kinds { files: plans.len(), folders: folders.len() };
    let (whole, folders): (Vec<PathBuf>, Vec<PathBuf>) = match output {
        Some(place) if names_types(place) => {
            let named = |ty: &str| PathBuf::from(place.to_string_lossy().replace(TYPE_MARK, ty));
            let file = |plan: &Plan| named(plan.label());
            (plans.iter().map(file).collect(), folders.iter().map(|ty| named(ty.name())).collect())
        }
        Some(place) if kinds.go_into(place) => {
            let within = |name: PathBuf| place.join(name);
            (plans.iter().map(file).map(within).collect(), folders.iter().map(folder).map(within).collect())
        }
        Some(place) => {
            let one = |n: usize| vec![place.to_path_buf(); n];
            (one(plans.len()), one(folders.len()))
        }
        None => (plans.iter().map(file).collect(), folders.iter().map(folder).collect()),
    };
    let shards = |(plan, target): (&Plan, PathBuf)| {
        (0..plan.shards).map(|no| gguf::split::of_whole(&target, no, plan.shards)).collect()
    };
    Targets { files: plans.iter().zip(whole).map(shards).collect(), folders }
}
