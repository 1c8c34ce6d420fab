"""Which rows answer, where candidates are studies: each study once, by its best image."""

import numpy as np
from handmade_index import image_rows, make_engine

from index.corpora.record import LabelState, Record
from retrieval.benchmarks import label_task
from retrieval.units import judge

FINDING = "Edema"


def test_each_study_answers_once_by_its_best_image(tmp_path):
    """The first film asks; of the others, cosines are known, and study s2 has the second best and the worst film."""
    cosines = {"asks": 1.0, "s1-a": 0.9, "s2-a": 0.8, "s3-a": 0.7, "s2-b": 0.1}
    positive = {"asks", "s2-a", "s2-b"}
    records = [
        Record(id=id, image=None, study_id=id[:2], labels={FINDING: LabelState.POSITIVE if id in positive else LabelState.NEGATIVE})
        for id in cosines
    ]
    vectors = np.array([[cosine, np.sqrt(1 - cosine**2)] for cosine in cosines.values()])
    engine = make_engine(tmp_path / "index", {"images": (image_rows(records), {"joint": vectors})}, findings=(FINDING,))

    judged = judge(engine, label_task(engine, "image-image"), 4, by="study", exclude_same_patient=False)

    assert judged.rows[0].tolist() == [1, 2, 3, -1]
    assert judged.relevance[0].tolist() == [False, True, False, False]
    assert (judged.relevant[0], judged.candidates[0]) == (1, 3)
