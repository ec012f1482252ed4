"""
The vocabulary of [`RuleLabeler`]: what names a finding, and what negates it or makes it uncertain.

The findings and most of their terms are those of the CheXpert labeler (Irvin et al. 2019, arXiv 1901.07031) as radtext 1.0
(MIT) lists them. All are regular expressions over lower-case text.
"""

from __future__ import annotations

# A mention says that the finding is there, unless its context says otherwise.
FINDINGS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        r"(?:mediastinal|cardiomediastinal) (?:widening|enlargement|prominence)",
        r"(?:enlarged|widened|prominent|wide|large) (?:cardiomediastinum|mediastinum)",
        r"(?:enlarged|widened|prominent|wide) (?:cardio)?mediastinal (?:silhouette|contours?|shadow)",
        r"(?:enlargement|widening|prominence) of the (?:\w+ )?(?:cardiac |heart |cardio)?(?:mediastinal|mediastinum)",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        r"megacardia",
        r"cardiac enlargement",
        r"heart enlargement",
        r"(?:enlarged|dilated|globular|big) (?:heart|cardiac (?:silhouette|shadow|contours?|size))",
        r"(?:enlargement|prominence) of the (?:heart|cardiac)",
        r"cardiac hypertrophy",
    ),
    "Lung Opacity": (
        r"opaci\w*",
        r"(?:decreased|reduced) translucency",
        r"increased (?:\w+ )?density",
        r"air[- ]?space (?:disease|process|consolidation|filling)",
        r"infiltrat\w*",
        r"interstitial (?:markings?|patterns?|lung disease|disease|changes?|prominence|thickening|abnormalit\w*)",
        r"(?:increased|prominent|coarse\w*) (?:\w+ )?(?:lung |bronchovascular |reticular |interstitial )?markings",
        r"reticula(?:r|tion|tions)\b(?: patterns?| markings?)?",
        r"reticulonodular\w*",
        r"peribronchial (?:thickening|cuffing)",
        r"(?:bronchial|airway) (?:wall )?thickening",
        r"ground[- ]?glass",
        r"(?:parenchymal|lung|pulmonary|apical|basilar|linear|biapical) scar\w*",
        r"\bscar(?:ring|s)?\b",
    ),
    "Lung Lesion": (
        r"\bmass(?:es)?\b",
        r"nodular (?:density|densities|opacit\w*|opacification|lesions?)",
        r"nodul(?:es?|arity)\b",
        r"\blumps?\b",
        r"cavit(?:y|ary|ation)\w*",
        r"\b(?:lung|pulmonary) lesions?",
        r"carcinoma",
        r"neoplas\w*",
        r"tumou?rs?\b",
        r"malignan\w*",
        r"metasta\w*",
    ),
    "Edema": (
        r"o?edema",
        r"heart failure",
        r"\bchf\b",
        r"(?:vascular|venous|pulmonary|hilar|perihilar|central|cardiac|interstitial) (?:vascular |venous )?congestion",
        r"congestion",
        r"vascular (?:prominence|engorgement|redistribution|plethora|indistinctness|cephalization)",
        r"(?:engorge(?:d|ment)|prominen(?:t|ce)|indistinct(?:ness)?|cephalization|redistribution) (?:of (?:the )?)?"
        r"(?:central |mediastinal )?(?:pulmonary |lung )?(?:vascul\w*|vessels)",
        r"cephalization",
        r"(?:fluid|volume) overload",
        r"kerley",
        r"(?:cardiac|cardiogenic|cardiopulmonary) decompensation",
    ),
    "Consolidation": (r"consolidat\w*",),
    "Pneumonia": (
        r"(?:broncho)?pneumonias?\b",
        r"pneumonic",
        r"\binfect(?:ion|ions|ious|ive)\b",
        r"pneumonitis",
    ),
    "Atelectasis": (
        r"atelecta\w*",
        r"\bcollaps(?:e|ed)\b",
        r"volume loss",
    ),
    "Pneumothorax": (r"pneumothora(?:x|ces|xes)", r"hydropneumothora\w*"),
    "Pleural Effusion": (
        r"effusions?",
        r"pleural (?:fluid|collections?)",
        r"hydrothora\w*",
        r"h(?:a)?emothora\w*",
        r"hydropneumothora\w*",
        r"fluid in the (?:\w+ )?(?:pleural|fissure)",
        r"blunt(?:ing|ed)\b(?: of)?(?: the)?(?: \w+){0,3} (?:costophrenic|cp|sulc\w*)",
        r"costophrenic (?:angle |sulcus )?blunting",
    ),
    "Pleural Other": (
        r"(?:pleural|pleuro|apical pleural|biapical pleural)[- ](?:parenchymal )?(?:thickening|scar\w*|plaques?)",
        r"thicken(?:ed|ing of the) pleura\w*",
        r"fibrosis",
        r"fibrothorax",
        r"pleuro[- ](?:parenchymal|pericardial) scar\w*",
        r"pleural (?:calcifications?|abnormalit\w*|disease|mass\w*|lesions?|based)",
        r"calcified pleura\w*",
    ),
    "Fracture": (r"fractur\w*",),
    "Support Devices": (
        r"pace[- ]?makers?",
        r"\bpacers?\b",
        r"\bpacing\b",
        r"\ba?icds?\b",
        r"defib\w*",
        r"(?:central |venous |arterial |subclavian |jugular |ij |picc |swan[- ]ganz )?\blines?\b",
        r"\bpicc\b",
        r"tubes?\b",
        r"\b(?:ett|ngt|ogt)\b",
        r"\b(?:peg|dobb?hoff|port[- ]?a[- ]?cath|portacath|mediport|chemoport|swan[- ]ganz|impella|iabp|ecmo|lvad)\b",
        r"\bports?\b(?= (?:catheter|tip|is|in|terminat))",
        r"catheters?",
        r"cannulas?",
        r"(?:balloon|aortic) pump",
        r"\bdrains?\b",
        r"\bstents?\b",
        r"\bleads?\b(?! to)",
        r"\bwires?\b",
        r"\bclips?\b",
        r"\bcoils?\b",
        r"\bscrews?\b",
        r"\bplates?\b(?![- ]?like)",
        r"hardware",
        r"arthroplast\w*",
        r"prosthe\w*",
        r"(?:prosthetic|mechanical|replaced|artificial|bioprosthetic|mitral|aortic|tricuspid) valves?",
        r"valve (?:replacement|prosthesis|repair)s?",
        r"tracheostom\w*",
        r"\bintubat(?:ed|ion)\b",
        r"\bdevices?\b",
        r"(?:support|monitoring) (?:apparatus|equipment)",
        r"vagal nerve stimulator|\bstimulators?\b",
    ),
}

# A match that overlaps one of these is no mention of the finding.
EXCLUDED: dict[str, tuple[str, ...]] = {
    "Lung Opacity": (
        r"pleural scar\w*",
        r"nodular opaci\w*",
        r"(?:pleuro|pleural)[- ](?:parenchymal |pericardial )?scar\w*",
        r"radio[- ]?opa\w*",
    ),
    "Lung Lesion": (
        r"calcified (?:\w+ )?(?:nodul|mass)\w*",
        r"calcified granulom\w*",
        r"mass effect",
        r"pleural (?:mass\w*|lesions?)",
        r"body mass",
        r"(?:thoracic|chest|pleural|abdominal|peritoneal|oral) cavity",
    ),
    "Edema": (r"(?:nasal|sinus|subcutaneous|soft[- ]tissue) (?:congestion|edema)",),
    "Pleural Effusion": (r"pericardial effusions?", r"joint effusions?"),
    "Pneumonia": (r"granulomatous infection",),
    "Atelectasis": (r"(?:vertebral|vertebra|body|compression) (?:\w+ )?collapse\w*",),
    "Support Devices": (
        r"(?:pleural|septal|kerley[- ]?\w?|fracture|skin|fissur\w+|paratracheal|paraspinal|b|junction|air[- ]fluid"
        r"|in) lines?",
        r"mid(?:clavicular|axillary)? lines?",
        r"(?:mitral|aortic) valve (?:annul\w*|calcif\w*)",
        r"kerley\w*",
    ),
}

# Anatomy that is normal, enlarged or unchanged; the words around it say which.
STRUCTURES: dict[str, str] = {
    "Cardiomegaly": (
        r"\b(?:heart|cardiac (?:silhouette|size|shadow|contours?|border)|cardiopericardial silhouette)\b(?! failure)"
    ),
    "Enlarged Cardiomediastinum": r"\b(?:cardiomediastin\w*|mediastin(?:um|al)|cardiac (?:and|or) mediastinal)\b",
}
ENLARGED = (
    r"enlarge(?:d|ment)|widen(?:ed|ing)|prominen(?:t|ce)|dilat(?:ed|ation)|increased in size|markedly increased"
    r"|large(?:r)?|wide|bulky"
)
BORDERLINE = (
    r"borderline|top[- ]normal|top of normal|high normal|upper limits? of normal|upper[- ]normal|upper limits?"
    r"|mildly accentuated"
)
NORMAL = (
    r"normal\w*|unremarkable|within (?:\w+ )?limits|not (?:\w+ )?(?:enlarged|widened|dilated|prominent)"
    r"|non[- ]?enlarged"
    r"|no (?:\w+ )?(?:enlargement|widening|abnormalit\w*)|preserved"
)
UNCHANGED = r"stable|unchanged|similar|not (?:\w+ )?changed|no (?:\w+ )?change|constant"

# Words that look like a negation and negate something else.
PSEUDO_NEGATIONS = (
    r"\b(?:no|not|without)\b (?:(?:any|new|significant\w*|substantial\w*|relevant|appreciabl[ey]|definite|obvious"
    r"|major|marked"
    r"|interval|gross|notabl[ey]|considerabl[ey]|further|great|important|the|appear to have) )*"
    r"(?:chang(?:e|es|ed)|increas\w*|decreas\w*|improve\w*|progress\w*|worsen\w*|differen\w*|deteriorat\w*|evol\w*)"
    r"(?: (?:in|of|from|with)\b(?: the)?(?: (?:appearance|extent|size|severity|distribution|degree|amount)(?: (?:of"
    r"|and)\b"
    r"(?: the)?)?)*)?",
    r"\bnot (?:only|necessarily)\b",
    r"\b(?:may|might|can|could) not\b",
    r"\bnot (?:well|clearly|fully|completely|optimally) (?:seen|visuali[sz]ed|evaluated|assessed|delineated|defined"
    r"|appreciated)\b",
    r"\bno (?:prior|comparison|previous)\b[^,.;]*",
)
# Before the mention, from the cue on to the end of the clause.
NEGATIONS_BEFORE = (
    r"\bno\b",
    r"\bnot\b(?! (?:be |been )?(?:entirely |fully |completely |definitely )?(?:exclude|rule))",
    r"\bnor\b",
    r"\bneither\b",
    r"\bwithout\b",
    r"\bw/o\b",
    r"\bnegative for\b",
    r"\b(?:free|clear|clearing|cleared) of\b",
    r"\babsen(?:ce of|t)\b",
    r"\black of\b",
    r"\brather than\b",
    r"\b(?:(?<!near.)(?<!partial.)resolution|disappearance|removal) of\b",
    r"(?<!nearly.)\bresolved\b",
    r"\b(?:excludes?|excluded|rules? out|ruled out)\b",
    r"\bremoved\b",
)
# After the mention, in the same clause and close to it.
NEGATIONS_AFTER = (
    r"(?:is|are|was|were|has been|have been|has|have)?\s*(?:now |since |completely |largely |essentially )*"
    r"(?:not|no longer) (?:\w+ )?(?:seen|present|identified|evident|visuali[sz]ed|appreciated|demonstrated|noted"
    r"|detected|apparent"
    r"|found|visible|observed|suspected|enlarged|there)",
    r"(?:is|are|was|were) (?:not|absent|negative|resolved|gone|removed|excluded|ruled out|free)\b",
    r"(?:has|have|had) (?:now |since |also |completely |been |interval )*"
    r"(?:resolved|cleared|disappeared|removed|excluded|discontinued|ruled out)",
    r"\b(?:resolved|removed|absent)\b(?= ?(?:$|,|\.))",
    r"\bremoval\b",
    r": (?:none|no|negative|absent)\b",
)
# Take a mention as not stated: neither positive nor negative.
NOT_STATED_BEFORE = (
    r"\bhistory of\b",
    r"\bh/o\b",
    r"\bhx of\b",
    r"\b(?:evaluate|assess|evaluation|assessment|eval|assessed|evaluated|check|look|looking|monitor"
    r"|monitoring) (?:for|of)\b",
    r"\b(?:please|to) (?:evaluate|assess|rule out|exclude)\b",
    r"\br/o\b",
    r"^ ?rule out\b",
    r"\bquery\b",
    r"\bsensitiv\w*\b",
    r"\b(?:obscure|mask|simulate|mimic)s?\b",
    r"\b(?:status post|s/p|post) (?:\w+ ){0,2}(?:for)\b",
)
UNCERTAIN_STRONG_BEFORE = (
    r"\b(?:cannot|can ?not|could not|can't|must|difficult to|impossible to|unable to|not possible to|hard to)\b"
    r" (?:be )?(?:entirely |fully |completely |definitely |totally )?(?:exclude|excluded|rule out|ruled out)",
    r"\b(?:not|without) (?:entirely |fully |completely |definitely )?(?:excluding|exclude|excluded|ruling out"
    r"|rule out|ruled out)\b",
    r"\bno evidence to (?:rule out|exclude)\b",
)
UNCERTAIN_STRONG_AFTER = (
    r"(?:cannot|can ?not|could not|can't|not|difficult to|impossible to|must|should) (?:\w+ ){0,3}"
    r"(?:excluded?|rule(?:d)? out|ruling out|say|tell)"
)
# Beside plain words of doubt these are the cues of the CheXpert labeler, to which "likely" and "suggests" are not uncertain.
UNCERTAIN_BEFORE = (
    r"\b(?:possibl[ey]|probabl[ey]|presumabl[ey]|presumed|questionabl[ey]|question(?: of)?|questioned|perhaps|maybe"
    r"|less likely|equivocal|indeterminate|borderline|conceivabl[ey])\b",
    r"\b(?:suspect|suspected|suspicion|suspicious|concern|concerning|worrisome|suggestion|favor\w*|consider|considered)\b"
    r"(?: (?:for|of|that|is|there))*",
    r"\b(?:may|might|could|can|would)\b (?:also |well |potentially |possibly |easily )?(?:be|represent|reflect"
    r"|indicate|include"
    r"|relate|suggest|have|account|correspond|correlate|contain|signify|result)\w*",
    r"\b(?:may|might|could)\b",
    r"\b(?:versus|vs\.?)(?= |$)",
    r"\bdifferential (?:diagnosis )?(?:includes?|considerations?|would include|diagnosis)\b",
    r"\bdoubt\b",
    r"\bunlikely\b",
    r"\b(?:correlate|correlation) (?:clinically )?(?:for|with)\b",
    r"\b(?:if|whether)\b",
    r"\?",
    r"\band/or\b",
    r"\bnot (?:well|clearly|fully|completely|optimally) (?:seen|visuali[sz]ed|evaluated|assessed|delineated|defined"
    r"|appreciated)\b",
)
UNCERTAIN_AFTER = (
    r"(?:also |still |felt |thought |therefore )*"
    r"(?:possible|possibly|probable|presumed|suspected|questioned|questionable|unlikely|less likely"
    r"|considered|favou?red"
    r"|equivocal|in the differential|a possibility|a consideration|obscured|difficult to (?:assess|evaluate)"
    r"|(?:poorly|incompletely|not (?:well|clearly|fully|completely|optimally)) (?:seen|visuali[sz]ed|evaluated|assessed))\b",
    r"(?:may|might|could) (?:also |well |be |possibly )*(?:not|present|have|be|appear|considered|there|developing)",
    r"and/or\b",
    r",? ?if (?:any|present)",
    r"(?:versus|vs\.?) ",
    r"\?",
    r"(?:cannot|can not|could not) be (?:evaluated|assessed|confirmed|detected|identified)",
)
# A cue before the mention does not reach beyond these.
CLAUSE_BREAK = (
    r"[;:]|\bbut\b|\bhowever\b|\balthough\b|\bthough\b|\bwhile\b|\bwhereas\b|\bexcept(?:ing)?\b|\baside from\b"
    r"|\bapart from\b"
    r"|\bother than\b|\bwith the exception\b|\byet\b|\bdespite\b"
    r"|,? and (?:there (?:is|are)|the|a|an|is|are|has|have|stable|unchanged|persistent|mild|moderate|small|low)\b"
    r"|, (?:there (?:is|are)|with|consistent with|compatible with|the|which|and (?:the|there))\b"
)
# Also end a negation when a comma is before them and no "or" comes after them in the clause.
PRESENT = (
    r", (?:(?:and )?(?:stable|unchanged|persistent|persisting|mild|mildly|moderate|small|large|tiny|minimal|trace"
    r"|severe|increased|increasing|improved|improving|new|worsening|bilateral|left|right|multiple|patchy|low|again)\b)"
)
# End a negation wherever a comma is before them.
INSTEAD = (
    r", (?:and )?(?:suggest\w*|probably|possibly|likely|consistent with|compatible with|concerning|may|might|could"
    r"|favou?r\w*)\b"
)
# Other findings: a report with one of them is not without finding.
OTHER_FINDINGS = (
    r"emphysem\w*", r"hyper-?(?:inflat|expan|aerat|lucen)\w*", r"bronch(?:itis|iolitis|iectasis|ospasm)\w*",
    r"asthma", r"\bcopd\b", r"chronic obstructive", r"hernia\w*", r"eventration", r"elevat(?:ed|ion)\b", r"scolio\w*",
    r"kypho\w*", r"degenerat\w*", r"osteo(?:phyt|pen|poro|dystroph)\w*", r"spondyl\w*",
    r"arthr(?:itis|opath|osis|itic)\w*", r"calcifi\w*", r"granulom\w*", r"atheroscl\w*", r"tortuo\w*", r"ectas\w*",
    r"aneurysm\w*", r"plaques?\b", r"thickening", r"aspirat\w*", r"bulla\w*", r"contusion",
    r"pneumo(?:mediastinum|peritoneum)", r"hypertension", r"bullet", r"h(?:a)?ematoma", r"h(?:a)?emorrhage",
    r"deformit\w*", r"adenopathy", r"sarcoid\w*", r"tubercul\w*", r"deviat(?:ed|ion)", r"dislocat\w*",
    r"foreign bod\w*", r"low (?:lung )?volumes?", r"hypo-?(?:inflat|aerat|expan)\w*", r"blunting", r"subluxation",
    r"lordosis", r"cysts?\b",
)  # fmt: skip
