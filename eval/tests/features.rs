//! Vectors of towers: what transformers computes for every folder of `fixtures/golden/mmproj`, from the folder and from
//! its projector file, and what is refused.

use std::path::Path;

use convert::{Options, OutType};
use eval::towers::{Features, KINDS, Picture, Pixels, Processor, Sense, Tower};
use eval::weights::SourceWeights;
use gguf::Source;
use serde_json::Value;

fn floats(path: &Path) -> Vec<f32> {
    std::fs::read(path).unwrap().as_chunks::<4>().0.iter().map(|v| f32::from_le_bytes(*v)).collect()
}

fn projector(name: &str, outtype: OutType) -> convert::Checkpoint {
    let folder = fixtures::path(&format!("golden/mmproj/{name}/hf/{name}"));
    convert::Checkpoint::open(&folder, &Options { outtype, projector: true, ..Options::default() }).unwrap()
}

fn shape(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn pixels(name: &str, expected: &Value) -> Pixels {
    let values = floats(&fixtures::path(&format!("golden/mmproj/{name}/pixels.f32")));
    let grid = expected["vision_inputs"]["image_grid_thw"][0].as_array();
    let grid = grid.map(|g| (g[1].as_u64().unwrap() as usize, g[2].as_u64().unwrap() as usize));
    Pixels::new(values, &shape(&expected["pixels_shape"]), grid).unwrap()
}

fn features(source: &dyn Source, pixels: &Pixels) -> gguf::Result<Features> {
    let weights = SourceWeights(source);
    let tower = Tower::new(source.metadata(), &weights, None)?;
    tower.features(pixels)
}

/// The largest error relative to the root mean square.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len());
    let root = (theirs.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / theirs.len() as f64).sqrt();
    ours.iter().zip(theirs).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max) / root
}

#[test]
fn every_tower_gives_the_vectors_of_transformers() {
    let (mut agree, mut faults) = (0, Vec::new());
    for entry in std::fs::read_dir(fixtures::path("golden/mmproj")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let expected = fixtures::json(&format!("golden/mmproj/{name}/expected.json"));
        if expected["vision_shape"].is_null() {
            continue;
        }
        let theirs = floats(&fixtures::path(&format!("golden/mmproj/{name}/expected-vision.f32")));
        let pixels = pixels(&name, &expected);
        let made = features(&projector(&name, OutType::Auto), &pixels).unwrap();
        assert_eq!(vec![made.rows, made.cols], shape(&expected["vision_shape"]), "{name}");
        match error(&made.values, &theirs) {
            // The rotary frequencies of Llama 4 were rounded by the maker of the vectors.
            error if error < if name.starts_with("Llama-4") { 2e-3 } else { 2e-4 } => agree += 1,
            error => faults.push(format!("{name}: {error:e}")),
        }
    }
    assert!(faults.is_empty(), "{agree} agree, others do not: {faults:?}");
    assert!(agree >= 30);
}

#[test]
fn a_bound_on_memory_changes_no_vector_or_is_refused() {
    let names =
        ["llava-1.5-Tiny-7b-hf", "Qwen2.5-VL-Tiny-Instruct", "granite-speech-Tiny-3.3-2b", "ultravox-Tiny-v0_5"];
    for name in names {
        let source = projector(name, OutType::Auto);
        let pixels = pixels(name, &fixtures::json(&format!("golden/mmproj/{name}/expected.json")));
        let within = |bytes: u64| {
            let weights = SourceWeights(&source);
            Tower::new(source.metadata(), &weights, None).unwrap().within(bytes).features(&pixels)
        };
        let told = within(1000).unwrap_err();
        assert!(
            told.to_string().contains("of 1000 B there are") && told.way_out().unwrap().contains("--max-memory"),
            "{told}"
        );
        // The least that suffices leaves no more than a few tokens together in the widest part.
        let least = (10..30).map(|power| 1 << power).find(|bytes| within(*bytes).is_ok()).unwrap();
        assert_eq!(within(least).unwrap().values, within(u64::MAX).unwrap().values, "{name}");
    }
}

#[test]
fn the_embedder_of_sound_gives_the_vectors_of_transformers() {
    let name = "Gemma-4-Unified-Tiny";
    let read = |file: &str| floats(&fixtures::path(&format!("golden/mmproj/{name}/{file}")));
    let (sound, theirs) = (read("sound.f32"), read("expected-sound.f32"));
    let source = projector(name, OutType::Auto);
    let weights = SourceWeights(&source);
    let tower = Tower::new(source.metadata(), &weights, Some(Sense::Audio)).unwrap();
    let made = tower.features(&Pixels::new(sound, &[5, 24], None).unwrap()).unwrap();
    assert_eq!((made.rows, made.cols), (5, 48));
    assert!(error(&made.values, &theirs) < 2e-4);
    // Frames of another width are not taken for others.
    let other = tower.features(&Pixels::new(vec![0.5; 40], &[4, 10], None).unwrap());
    assert!(other.unwrap_err().to_string().contains("frames of 10 values"));
}

#[test]
fn pictures_are_processed_as_transformers_does_it_on_pillow() {
    let cases = fixtures::json("golden/pictures/expected.json");
    let picture = Picture::open(&fixtures::path("golden/pictures/picture.png"), 1 << 30).unwrap();
    for (name, case) in cases.as_object().unwrap() {
        let bytes = std::fs::read(fixtures::path(&format!("golden/pictures/{name}.u8"))).unwrap();
        let shape = shape(&case["shape"]);
        // Values of one channel that follow each other.
        let run = if shape.len() == 3 { shape[1] * shape[2] } else { shape[1] / 3 };
        let of = |key: &str, i: usize| case[key][i / run % 3].as_f64().unwrap();
        let normal = |(i, byte): (usize, &u8)| ((f64::from(*byte) / 255.0 - of("mean", i)) / of("std", i)) as f32;
        let values = bytes.iter().enumerate().map(normal).collect();
        let grid = case["grid"].as_array().map(|g| (g[0].as_u64().unwrap() as usize, g[1].as_u64().unwrap() as usize));
        let theirs = Pixels::new(values, &shape, grid).unwrap();
        let source = projector(name, OutType::F32);
        // What the folder leaves to the processor's class.
        let file = "preprocessor_config.json";
        let mut settings = fixtures::json(&format!("golden/mmproj/{name}/hf/{name}/{file}"));
        settings.as_object_mut().unwrap().extend(case["settings"].as_object().unwrap().clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), settings.to_string()).unwrap();
        let processor = Processor::of_folder(folder.path(), source.metadata()).unwrap();
        let weights = SourceWeights(&source);
        let tower = Tower::new(source.metadata(), &weights, None).unwrap();
        let ours = tower.features(&tower.pixels(&picture, &processor).unwrap()).unwrap();
        let theirs = tower.features(&theirs).unwrap();
        assert_eq!((ours.rows, ours.cols), (theirs.rows, theirs.cols), "{name}");
        let error = error(&ours.values, &theirs.values);
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn kinds_that_are_not_computed_are_refused_by_name() {
    let source = projector("gemma-3-Tiny-it", OutType::F32);
    let mut refused = 0;
    for kind in gguf::projector::KINDS.iter().filter(|kind| kind.sense == Sense::Vision) {
        let mut metadata = source.metadata().clone();
        metadata.set("clip.projector_type", kind.name);
        let known = KINDS.iter().any(|own| own.name == kind.name && own.sense == kind.sense);
        match Tower::new(&metadata, &SourceWeights(&source), None) {
            Ok(_) => assert!(known, "{}", kind.name),
            Err(e) => {
                assert!(!known && e.to_string().contains(&format!("the vision projector {} is not", kind.name)), "{e}");
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn projector_files_give_the_vectors_of_their_folders() {
    // Those of Qwen2.5-VL do not say how large windows are, so the small ones of the fixtures are taken for larger.
    for name in
        ["gemma-3-Tiny-it", "Pixtral-Tiny-12B", "Voxtral-Tiny-3B-2507", "gemma-4-Tiny-it", "Qwen3-VL-Tiny-Instruct"]
    {
        let expected = fixtures::json(&format!("golden/mmproj/{name}/expected.json"));
        let theirs = floats(&fixtures::path(&format!("golden/mmproj/{name}/expected-vision.f32")));
        let folder = projector(name, OutType::BF16);
        let bytes = gguf::write::copy(&folder, folder.metadata(), Vec::new(), |_| {}).unwrap();
        let file = gguf::File::from_bytes(bytes.into()).unwrap();
        let made = features(&file, &pixels(name, &expected)).unwrap();
        assert!(error(&made.values, &theirs) < 2e-3, "{name}");
        assert_eq!(made.notes.iter().any(|n| n.contains("2 × 2 fit the image")), name.starts_with("gemma-4"));
    }
}

#[test]
fn images_are_the_same_as_their_flattened_patches() {
    let name = "Qwen2-VL-Tiny-Instruct";
    let source = projector(name, OutType::Auto);
    let (height, width, side, merge) = (32, 48, 8, 2);
    let image: Vec<f32> = (0..3 * height * width).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut patches = Vec::new();
    for (by, bx) in (0..height / side / merge).flat_map(|y| (0..width / side / merge).map(move |x| (y, x))) {
        for (dy, dx) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let (top, left) = ((by * merge + dy) * side, (bx * merge + dx) * side);
            for channel in 0..3 {
                for _frame in 0..2 {
                    for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                        patches.push(image[(channel * height + top + y) * width + left + x]);
                    }
                }
            }
        }
    }
    let whole = features(&source, &Pixels::new(image, &[3, height, width], None).unwrap()).unwrap();
    let flat = features(&source, &Pixels::new(patches, &[24, 384], Some((4, 6))).unwrap()).unwrap();
    assert_eq!(whole.values, flat.values);
    assert_eq!((whole.rows, whole.cols), (6, 48));
}

#[test]
fn what_does_not_fit_is_named() {
    let source = projector("gemma-3-Tiny-it", OutType::Auto);
    let said = |shape: &[usize]| {
        let pixels = Pixels::new(vec![0.5; shape.iter().product()], shape, None).unwrap();
        features(&source, &pixels).unwrap_err().to_string()
    };
    assert!(said(&[3, 30, 32]).contains("an image of 30 × 32 pixels is not a whole number of patches of 8 × 8"));
    assert!(said(&[1, 32, 32]).contains("two dimensions") || said(&[1, 32, 32]).contains("patches of 32 values"));
    assert!(said(&[3, 48, 48]).contains("positions for 4 × 4 patches, the image has 6 × 6"));
    assert!(said(&[4, 100]).contains("patches of 100 values"));
    let audio = projector("Voxtral-Tiny-3B-2507", OutType::Auto);
    let spectrogram = |bins: usize, frames: usize| {
        let pixels = Pixels::new(vec![0.5; bins * frames], &[bins, frames], None).unwrap();
        features(&audio, &pixels).map_err(|e| e.to_string())
    };
    assert!(spectrogram(12, 100).unwrap_err().contains("a spectrogram of 12 bins is not one of 16"));
    assert!(spectrogram(16, 400).unwrap_err().contains("400 frames are more than the 104"));
    let weights = SourceWeights(&audio);
    let none = Tower::new(audio.metadata(), &weights, Some(Sense::Vision)).unwrap_err().to_string();
    assert!(none.contains("no vision tower"), "{none}");
}

#[test]
fn kinds_are_unique() {
    for kind in KINDS {
        assert_eq!(KINDS.iter().filter(|k| k.name == kind.name && k.sense == kind.sense).count(), 1, "{}", kind.name);
    }
}
