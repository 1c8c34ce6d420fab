"""What is asked for a finding when nobody wrote a query: plain sentences, as reports phrase them."""

FINDING_PROMPTS: dict[str, tuple[str, ...]] = {
    "No Finding": (
        "No acute cardiopulmonary abnormality.",
        "Normal chest radiograph.",
        "Lungs are clear without focal consolidation, effusion or pneumothorax.",
        "Heart size and lungs are within normal limits.",
    ),
    "Enlarged Cardiomediastinum": (
        "Widened mediastinum.",
        "The mediastinal contour is enlarged.",
        "The cardiomediastinal silhouette is widened.",
    ),
    "Cardiomegaly": (
        "Cardiomegaly.",
        "The heart is enlarged.",
        "Enlarged cardiac silhouette.",
        "Heart size is increased.",
    ),
    "Lung Opacity": (
        "There is an opacity in the lung.",
        "Airspace opacity.",
        "Patchy opacities are seen in the lungs.",
    ),
    "Lung Lesion": (
        "Pulmonary nodule.",
        "There is a mass in the lung.",
        "A nodular lung lesion is seen.",
    ),
    "Edema": (
        "Pulmonary edema.",
        "Interstitial edema with vascular congestion.",
        "Findings consistent with pulmonary edema.",
    ),
    "Consolidation": (
        "Focal consolidation.",
        "There is consolidation in the lung.",
        "Lobar airspace consolidation.",
    ),
    "Pneumonia": (
        "Pneumonia.",
        "Findings concerning for pneumonia.",
        "Airspace disease consistent with infection.",
    ),
    "Atelectasis": (
        "Atelectasis.",
        "Bibasilar atelectasis.",
        "Linear opacities compatible with subsegmental atelectasis.",
        "Volume loss in the lung base.",
    ),
    "Pneumothorax": (
        "Pneumothorax.",
        "There is a pneumothorax.",
        "Collapsed lung with a visible pleural edge.",
    ),
    "Pleural Effusion": (
        "Pleural effusion.",
        "There is a pleural effusion.",
        "Fluid in the pleural space.",
        "Blunted costophrenic angle due to effusion.",
    ),
    "Pleural Other": (
        "Pleural thickening.",
        "Pleural plaques or scarring.",
        "Fibrotic pleural change.",
    ),
    "Fracture": (
        "Rib fracture.",
        "There is a fracture.",
        "Displaced fracture of the bone.",
    ),
    "Support Devices": (
        "Support devices in place.",
        "An endotracheal tube or central venous catheter is seen.",
        "Pacemaker or catheter is present.",
    ),
}


def prompts_for(finding: str) -> tuple[str, ...]:
    """Return the sentences that ask for `finding`: the built-in ones, else three made from its name.

    Raises:
        ValueError: If the name is blank.
    """
    name = " ".join(finding.replace("_", " ").split())
    if not name:
        raise ValueError("the name of a finding is blank")
    if name in FINDING_PROMPTS:
        return FINDING_PROMPTS[name]
    return (f"{name[0].upper()}{name[1:]}.", f"There is {name.lower()}.", f"Findings consistent with {name.lower()}.")
