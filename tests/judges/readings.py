"""An independent reading of health data, to judge ours by: other libraries, other code, other people's parsers.

`python readings.py KIND FOLDER` prints one JSON object. Needs pydicom and fitparse for `dicom` and `fit`; the rest is
Python's own library.
"""

import collections
import csv
import io
import json
import os
import sys
import tarfile
import xml.etree.ElementTree as ElementTree


def fitbit_daily(folder):
    """Days, people and totals of a Fitabase export, by plain csv."""
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        day = next(key for key in rows[0] if "Date" in key or "Day" in key)
        told = {"rows": len(rows), "people": len({row["Id"] for row in rows})}
        told["person_days"] = len({(row["Id"], row[day].split(" ")[0]) for row in rows})
        for column in ("StepTotal", "TotalSteps"):
            if column in rows[0]:
                told["steps"] = sum(int(row[column]) for row in rows)
        if "WeightKg" in rows[0]:
            told["weights_kg"] = sorted(row["WeightKg"] for row in rows)
            # Written month first: 5-2-2016 is the second of May.
            months = [row[day].split(" ")[0].replace("-", "/").split("/")[:2] for row in rows]
            told["days"] = sorted({f"{int(month):02}-{int(number):02}" for month, number in months})
        out[name] = told
    return out


def fit(folder):
    """What fitparse makes of each file: messages by kind, or why it refuses it."""
    import fitparse

    out = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".fit"):
            continue
        try:
            messages = list(fitparse.FitFile(os.path.join(folder, name)).get_messages())
        except Exception as error:  # each kind of refusal is told by its name
            out[name] = {"refused": type(error).__name__}
            continue
        kinds = collections.Counter(message.name for message in messages)
        records = [message.get_values() for message in messages if message.name == "record"]
        distances = [record["distance"] for record in records if record.get("distance") is not None]
        weights = [
            message.get_value("weight") for message in messages if message.name == "weight_scale"
        ]
        out[name] = {
            "messages": dict(kinds),
            # A value without a time cannot be placed in anybody's day.
            "heart_rates": sum(
                1 for record in records if record.get("heart_rate") is not None and record.get("timestamp")
            ),
            "distance_m": max(distances) if distances else None,
            "weights_kg": [weight for weight in weights if weight is not None],
        }
    return out


def apple_health(folder):
    """How many records of each type an export holds, by another XML parser."""
    out = {}
    for name in sorted(os.listdir(folder)):
        if not name.endswith(".xml"):
            continue
        root = ElementTree.parse(os.path.join(folder, name)).getroot()
        out[name] = dict(collections.Counter(record.get("type") for record in root.iter("Record")))
    return out


def vendor_api(folder):
    """How many values of which kind the answers of Fitbit, Google Fit and Withings hold."""
    withings = {1: "weight", 4: "height", 6: "body_fat", 9: "diastolic", 10: "systolic", 11: "pulse"}
    out = {}
    for name in sorted(os.listdir(folder)):
        with open(os.path.join(folder, name), encoding="utf-8") as file:
            answer = json.load(file)
        counts = collections.Counter()
        if name.startswith("fitbit") and isinstance(answer, dict):
            counts["steps"] += len(answer.get("activities-steps-intraday", {}).get("dataset", []))
            counts["steps"] += len(answer.get("activities-steps", []))
        elif name.startswith("googlefit") and isinstance(answer, dict):
            for point in answer.get("point", []):
                counts[point["dataTypeName"]] += 1
        elif name.startswith("withings") and isinstance(answer, dict):
            for group in answer.get("body", {}).get("measuregrps", []) or []:
                for measure in group["measures"]:
                    if group.get("category") == 1 and measure["type"] in withings:
                        counts[withings[measure["type"]]] += 1
        out[name] = {kind: count for kind, count in counts.items() if count}
    return out


def dicom(folder):
    """Every image below a folder, in plain files and tars: its UIDs, and its place in its series."""
    import numpy
    import pydicom

    images, others, refused = [], 0, 0

    def one(name, bytes_):
        nonlocal others, refused
        try:
            data = pydicom.dcmread(io.BytesIO(bytes_), stop_before_pixels=True)
        except Exception:
            refused += 1
            return
        if str(data.file_meta.get("MediaStorageSOPClassUID", "")) == "1.2.840.10008.1.3.10":
            others += 1
            return
        place = None
        if data.get("ImagePositionPatient") and data.get("ImageOrientationPatient"):
            turn = [float(value) for value in data.ImageOrientationPatient]
            normal = numpy.cross(turn[:3], turn[3:])
            place = float(numpy.dot(normal, [float(value) for value in data.ImagePositionPatient]))
        spacing = [str(value) for value in data.PixelSpacing] if data.get("PixelSpacing") else None
        images.append(
            {
                "study": str(data.get("StudyInstanceUID", "")),
                "series": str(data.get("SeriesInstanceUID", "")),
                "instance": str(data.get("SOPInstanceUID", "")),
                "modality": str(data.get("Modality", "")),
                "place": place,
                "spacing": spacing,
            }
        )

    for root, _, names in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(root, name)
            if ".tar" in name:
                with tarfile.open(path) as archive:
                    for member in archive:
                        if member.isfile():
                            one(member.name, archive.extractfile(member).read())
            else:
                with open(path, "rb") as file:
                    one(name, file.read())
    return {"images": images, "others": others, "refused": refused}


if __name__ == "__main__":
    kinds = [fitbit_daily, fit, apple_health, vendor_api, dicom]
    chosen = {kind.__name__.replace("_", "-"): kind for kind in kinds}[sys.argv[1]]
    json.dump(chosen(sys.argv[2]), sys.stdout)
