"""All words of the Space's interface, in English and in German, and the choice between the two."""

import re

LANGUAGES = {"en": "English", "de": "Deutsch"}
DEFAULT_LANGUAGE = "en"

ENGLISH = {
    # The page
    "title": "Sign language translation",
    "intro": (
        "Upload or record a video of a person who signs. The model writes what it understood. MP4 and WebM are best. "
        "Other kinds, such as AVI, are translated too, but most browsers cannot show them. Up to {megabytes} MB and "
        "{minutes} minutes."
    ),
    "warning": (
        "**This model makes mistakes. A wrong sentence reads as well as a correct one.** It knows only the signs and "
        "topics that it was trained on. Do not use it where a wrong translation can harm someone: with doctors, in "
        "court, in an emergency. It does not replace an interpreter."
    ),
    "privacy": (
        "Your video is used for this translation only. It is deleted after {minutes} minutes at the latest, and it is "
        "never kept."
    ),
    "poses_intro": (
        "Upload the poses of a person who signs: the places of hands, arms and mouth in each frame. The model writes "
        "what it understood. Files can be .pose, .npz or .safetensors, up to {megabytes} MB and {minutes} minutes."
    ),
    "poses_intro_of_videos": (
        "Or upload or record a video: a program finds the poses in it, and the video is deleted. The translation is "
        "made from the poses alone."
    ),
    "poses_privacy": (
        "What you upload is used for this translation only. A video is deleted as soon as its poses are found, "
        "everything else after {minutes} minutes at the latest. Nothing is kept."
    ),
    "language_switch": "Language of this page",
    "pictures_label": "Three pictures: a camera sees a person, the person signs, a sentence appears.",
    "large_text_label": "Large text",
    # What goes in
    "video_label": "Video: upload or record",
    "poses_label": "File of poses: upload",
    "poses_or_video_label": "File of poses, or a video: upload",
    "camera_heading": "Record yourself with the camera",
    "skeleton_label": "What the model sees",
    "start_label": "From second",
    "start_info": "Where the signing starts. 0 is the beginning of the video.",
    "end_label": "To second",
    "end_info": "Where the signing ends.",
    "long_label": "Long video, with more than one sentence",
    "long_info": "The video is cut where the hands rest. Each piece is translated on its own. This takes longer.",
    "translations_label": "Number of translations",
    "translations_info": (
        "Several appear side by side, each with how sure the model is of it. A long video has one for each sentence."
    ),
    "hand_label": "I sign with my left hand",
    "hand_info": (
        "The hand that does more when you sign. The model learned mostly from people who sign with the right hand. It "
        "sees others in a mirror. Finding out takes a little longer."
    ),
    "hand_no": "No",
    "hand_yes": "Yes",
    "hand_auto": "Find out",
    "translate_button": "Translate",
    "stop_button": "Stop",
    "speed_label": "Playback speed",
    "speed_100": "Normal",
    "speed_50": "Half",
    "speed_25": "Quarter",
    "repeat_label": "Repeat the word that I choose",
    "examples_label": "Videos to try",
    "poses_examples_label": "Poses to try",
    # The camera with captions
    "live_heading": "Captions while you sign",
    "live_intro": (
        "The camera shows you, and the model writes below the picture while you sign. Rest your hands after each "
        "sentence: then it is finished. Up to {minutes} minutes. Pictures are not stored."
    ),
    "live_start": "Start the camera",
    "live_stop": "Stop and keep the text",
    "live_picture": "Your camera, as in a mirror",
    "live_starting": "Starting the camera.",
    "live_running": "You can sign now.",
    "live_ending": "Writing the last sentence.",
    "live_ended": "Done. You can save the text.",
    # What is going on
    "progress_waiting": "Waiting for other videos: {number} before yours",
    "progress_reading": "Reading the video",
    "progress_extracting": "Finding the poses in the video",
    "progress_splitting": "Looking for the pauses between sentences",
    "progress_watching": "Watching {total} pictures",
    "progress_writing": "Writing",
    "progress_piece": "Sentence {number} of {total}",
    "stopped": "Stopped.",
    "time_taken": "This took {seconds} seconds.",
    # What comes out
    "translation_label": "Translation",
    "translation_empty": "The model wrote nothing for this video.",
    "nothing_signed": "The model found nothing signed in this video.",
    "sure": "The model is sure. It can still be wrong.",
    "unsure": "The model is unsure. Some of this may be wrong.",
    "very_unsure": (
        "The model is very unsure. This is probably wrong: it may not know these signs, this person's signing or this "
        "kind of video."
    ),
    "unfamiliar": (
        "This video looks different from the videos that the model learned from. This is probably wrong: it may not "
        "know these signs, this person's signing or this kind of video."
    ),
    "unmeasured": (
        "The model is very unsure. The score of this sentence is lower than all scores that were measured. So nobody "
        "knows how many sentences like this one are right. This is probably wrong."
    ),
    "sureness_of_all": "The model is unsure of {unsure} of {total} sentences. They are marked with {mark}.",
    "sureness_share": "Of 100 sentences like this one, about {number} were right.",
    "sureness_share_of_surest": (
        "The score of this sentence is higher than all scores that were measured. Of 100 sentences with the highest "
        "scores, about {number} were right."
    ),
    "sureness_unknown": "Nobody has measured how often this model is right. So this page cannot say how sure it is.",
    "taken_for_left_handed": "This was translated as signed with the left hand: the model saw it in a mirror.",
    "taken_for_right_handed": "This was translated as signed with the right hand.",
    "alternatives_heading": "Other possible translations",
    "alternatives_info": "Other sentences that the model considered, best first.",
    "alternatives_text": "Sentence",
    "alternatives_score": "Score",
    "alternatives_score_info": "The closer to 0, the better the model likes the sentence.",
    "translations_number": "Translation {number} of {total}",
    "translations_different": "Different sentences: {number} of {total}. The others were the same.",
    "translations_sureness": (
        "How often the model is right was measured for its first translations. For the others the numbers can be too "
        "high."
    ),
    "translations_first": "The captions, and the picture of where the model looked, are those of translation 1.",
    "share_button": "Share the sentence, without the video",
    "share_limit": "Translated from sign language by a machine. It can be wrong.",
    "share_copied": "Copied. You can paste it anywhere.",
    "share_failed": "The browser does not allow it. You can select and copy the sentence.",
    "report_link": "This is wrong: tell the authors of the model",
    "report_info": (
        "A page of Hugging Face opens, where you can write what was signed. Others can read it. The sentence is passed "
        "on, your video is not."
    ),
    "report_title": "A wrong translation",
    "report_said": "The model wrote:",
    "report_signed": "What was signed:",
    "captions_heading": "Captions",
    "captions_info": "The sentences as captions for a video player. Check them before you show them to others.",
    "download_txt": "Download the text",
    "download_srt": "Download captions (SRT)",
    "download_vtt": "Download captions (VTT)",
    # The picture under the video
    "timeline_heading": "Where the model looked",
    "timeline_intro": "Choose a word: the video jumps to the place that the model looked at most.",
    "timeline_intro_long": "Choose a time: the video jumps there.",
    "timeline_legend_darkness": "The stronger the colour, the more the model looked there when it wrote the word.",
    "timeline_legend_interval": "The box goes from the first to the last second of that place.",
    "timeline_legend_peak": "The line marks where it looked most.",
    "timeline_legend_unsure": "Dotted line and question mark: the model is unsure of this word.",
    "timeline_legend_limit": "The sign for this word may be in another place.",
    "timeline_no_words": "There are no words to show.",
    "timeline_too_long": "The video is too long, so the pictures stop here. Choose a shorter part.",
    "timeline_details": "Words of this sentence",
    "timeline_word": "{word}, looked at {start} to {end} {unit}, most at {peak}; jump there",
    "timeline_unsure_word": "{word}, unsure, looked at {start} to {end} {unit}, most at {peak}; jump there",
    "timeline_piece": "{start} to {end}; jump there",
    "timeline_jumped": "The video is now at {time}.",
    "timeline_repeated": "The video repeats the part around {time}.",
    "unit_seconds": "seconds",
    "unit_minutes": "minutes",
    "table_heading": "As a table",
    "table_times": "Times in {unit}",
    "table_word": "Word",
    "table_start": "From",
    "table_end": "To",
    "table_peak": "Most at",
    "table_sure": "How sure",
    "table_unsure_word": "unsure",
    # What the model is
    "model_heading": "About this model",
    "model_sign_language": "Sign language",
    "model_spoken_language": "It writes",
    "model_data": "It learned from",
    "model_clips": "{number} videos, each of one sentence",
    "model_scores": "How good it is",
    "model_score": "{name}: {value} of 100, on {number} videos of “{dataset}” ({split})",
    "model_score_without_number": "{name}: {value} of 100, on “{dataset}” ({split})",
    "model_score_between": "likely between {low} and {high}",
    "model_scores_meaning": (
        "0 to 100: how much of the wording is the same as in a sentence that a person wrote. It does not say how many "
        "sentences are right. On other kinds of videos it is lower."
    ),
    "split_test": "videos it did not learn from",
    "split_validation": "videos that were used to choose the best version, so this can be too high",
    "split_train": "videos it learned from, so this is too high",
    "split_unknown": "the card does not say which part",
    "model_limits": "What it cannot do",
    "model_limits_from_card": "From the model's card.",
    "model_no_registered_code": (
        "This sign language has no registered code. It may have been made up to try the program: then the scores say "
        "nothing about any real sign language."
    ),
    "model_license": "Licence",
    "model_card_link": "The whole model card",
    "model_name": "Model",
    "model_no_card": "This model has no readable card. Its author has said nothing about it.",
    "model_unknown": "The model's card does not say this, or not in a form that this page can read.",
    # Errors
    "error_no_video": "There is no video yet. Upload or record one first.",
    "error_no_poses": "There are no poses yet. Upload a file first.",
    "error_no_pose_file": "This file holds no poses. Choose a file that ends in .pose, .npz or .safetensors.",
    "error_no_pose_or_video_file": (
        "This file is neither a video nor poses. Choose a video file, such as MP4, or one that ends in .pose, .npz or "
        ".safetensors."
    ),
    "error_damaged_poses": "The poses in this file cannot be read, or nobody is seen in it. Extract them again.",
    "error_no_times": (
        "This file does not say how many frames it has per second. Save it again with this number, as .pose files have "
        "it."
    ),
    "error_no_video_file": "This file is not a video. Choose a video file, such as MP4, WebM or MOV.",
    "error_no_picture": "This file has no picture, only sound. Choose a file with a picture.",
    "error_unknown_format": "This video is in a format that cannot be read here. Save it as MP4 (H.264) or WebM.",
    "error_nothing_shown": "There is no picture in this part of the video. Choose another part.",
    "error_damaged": "This video is damaged and cannot be read. Record it again, or save it as MP4.",
    "error_empty_file": "This file is empty. Choose another file.",
    "error_too_long": (
        "This part is too long: {seconds} seconds. The limit is {limit} seconds. Choose a shorter part."
    ),
    "error_too_long_for_one": (
        "This is too long for one sentence: {seconds} seconds. The limit is {limit} seconds. Choose a shorter part, or "
        "tick “Long video”."
    ),
    "error_too_large_picture": (
        "The picture of this video is too large: {width} x {height}. The limit is {limit_width} x {limit_height}."
    ),
    "error_too_short": "This is too short to translate. Choose a longer part.",
    "error_took_too_long": "This took too long and was stopped. Choose a shorter part.",
    "error_too_large_file": "This file is too large. The limit is {megabytes} MB. Choose a smaller one.",
    "error_too_many_of_yours": (
        "{limit} of your videos are already waiting or being translated. Wait until one of them is done. Then try "
        "again."
    ),
    "error_too_many": "Too many videos are waiting here right now. Try again in a few minutes.",
    "error_ours": "Something went wrong on our side. Try again. If it happens again, tell the owner of this page.",
    "error_times": "“From second” ({start}) must be smaller than “To second” ({end}).",
    "error_times_outside": "“From second” is {start}, but the video ends at {duration}. Choose an earlier second.",
    "live_error_camera": "The browser gives no camera. Allow this page to use it, and close other programs that do.",
    "live_error_connection": "The connection is lost. Start the camera again.",
    "live_error_full": "{limit} cameras are translated here right now. Try again in a few minutes.",
    "live_error_no_pictures": "The camera has sent no picture for {limit} seconds. Start it again.",
    "live_error_other_page": "Another page asked for captions. Open this page itself.",
    "live_error_picture": "The picture of the camera cannot be read. Try another browser.",
    "live_error_too_long": "{limit} minutes are over. Start the camera again to go on.",
    "error_address": "This page does not open web addresses. Upload or record a video.",
    # For programs
    "api_heading": "For programs",
    "api_info": "This page also has an API. Use it from Python with `gradio_client`, or with `curl`.",
    "api_translate": (
        "`video`, `start` and `end` in seconds (0: to its end), `is_long` for more than one sentence, `language` of "
        "the error messages (`en` or `de`), `num_translations` from 1 to 5, `left_handed` (`no`, `yes`, or `auto` to "
        "find out)"
    ),
    "api_about": "what the model's card says",
    "api_errors": "If a video cannot be translated, the answer is the same sentence as on this page.",
}

GERMAN = {
    "title": "Übersetzung aus der Gebärdensprache",
    "intro": (
        "Video hochladen oder aufnehmen, in dem eine Person gebärdet. Das Modell schreibt, was es verstanden hat. Am "
        "besten sind MP4 und WebM: Andere Arten, zum Beispiel AVI, werden auch übersetzt, aber die meisten Browser "
        "können sie nicht zeigen. Bis zu {megabytes} MB und {minutes} Minuten."
    ),
    "warning": (
        "**Dieses Modell macht Fehler. Ein falscher Satz klingt so gut wie ein richtiger.** Es kennt nur die Gebärden "
        "und Themen, mit denen es gelernt hat. Bitte nicht dort benutzen, wo eine falsche Übersetzung schadet: nicht "
        "in der Arztpraxis, nicht vor Gericht, nicht im Notfall. Es ersetzt keine Person, die dolmetscht."
    ),
    "privacy": (
        "Das Video wird nur für diese Übersetzung benutzt. Es wird nach spätestens {minutes} Minuten gelöscht und nie "
        "aufgehoben."
    ),
    "poses_intro": (
        "Posen einer Person hochladen, die gebärdet: die Orte von Händen, Armen und Mund in jedem Bild. Das Modell "
        "schreibt, was es verstanden hat. Dateien können .pose, .npz oder .safetensors sein, bis zu {megabytes} MB und "
        "{minutes} Minuten."
    ),
    "poses_intro_of_videos": (
        "Oder ein Video hochladen oder aufnehmen: Ein Programm findet darin die Posen, und das Video wird gelöscht. "
        "Übersetzt werden nur die Posen."
    ),
    "poses_privacy": (
        "Was hochgeladen wird, wird nur für diese Übersetzung benutzt. Ein Video wird gelöscht, sobald seine Posen "
        "gefunden sind, alles andere nach spätestens {minutes} Minuten. Nichts wird aufgehoben."
    ),
    "language_switch": "Sprache dieser Seite",
    "pictures_label": "Drei Bilder: Eine Kamera sieht eine Person, die Person gebärdet, ein Satz erscheint.",
    "large_text_label": "Große Schrift",
    "video_label": "Video: hochladen oder aufnehmen",
    "poses_label": "Datei mit Posen: hochladen",
    "poses_or_video_label": "Datei mit Posen oder Video: hochladen",
    "camera_heading": "Mit der Kamera aufnehmen",
    "skeleton_label": "Das sieht das Modell",
    "start_label": "Von Sekunde",
    "start_info": "Hier fängt das Gebärden an. 0 ist der Anfang des Videos.",
    "end_label": "Bis Sekunde",
    "end_info": "Hier hört das Gebärden auf.",
    "long_label": "Langes Video mit mehr als einem Satz",
    "long_info": "Das Video wird geteilt, wo die Hände ruhen. Jedes Stück wird einzeln übersetzt. Das dauert länger.",
    "translations_label": "Anzahl der Übersetzungen",
    "translations_info": (
        "Mehrere stehen nebeneinander, und bei jeder steht, wie sicher das Modell ist. Ein langes Video hat eine für "
        "jeden Satz."
    ),
    "hand_label": "Ich gebärde mit der linken Hand",
    "hand_info": (
        "Die Hand, die beim Gebärden mehr tut. Das Modell hat meist von Menschen gelernt, die mit der rechten Hand "
        "gebärden. Andere sieht es im Spiegel. Herausfinden dauert etwas länger."
    ),
    "hand_no": "Nein",
    "hand_yes": "Ja",
    "hand_auto": "Herausfinden",
    "translate_button": "Übersetzen",
    "stop_button": "Stopp",
    "speed_label": "Geschwindigkeit",
    "speed_100": "Wie gefilmt",
    "speed_50": "Halb",
    "speed_25": "Viertel",
    "repeat_label": "Das gewählte Wort wiederholen",
    "examples_label": "Videos zum Ausprobieren",
    "poses_examples_label": "Posen zum Ausprobieren",
    "live_heading": "Untertitel beim Gebärden",
    "live_intro": (
        "Die Kamera zeigt Sie, und das Modell schreibt unter das Bild, während Sie gebärden. Die Hände nach jedem Satz "
        "ruhen lassen: Dann ist er fertig. Bis zu {minutes} Minuten. Bilder werden nicht gespeichert."
    ),
    "live_start": "Kamera einschalten",
    "live_stop": "Beenden und Text behalten",
    "live_picture": "Ihre Kamera, wie im Spiegel",
    "live_starting": "Die Kamera wird eingeschaltet.",
    "live_running": "Jetzt kann gebärdet werden.",
    "live_ending": "Der letzte Satz wird geschrieben.",
    "live_ended": "Fertig. Der Text kann gespeichert werden.",
    "progress_waiting": "Andere Videos kommen vorher an die Reihe: {number}",
    "progress_reading": "Das Video wird gelesen",
    "progress_extracting": "Die Posen im Video werden gesucht",
    "progress_splitting": "Die Pausen zwischen den Sätzen werden gesucht",
    "progress_watching": "{total} Bilder werden angesehen",
    "progress_writing": "Der Satz wird geschrieben",
    "progress_piece": "Satz {number} von {total}",
    "stopped": "Gestoppt.",
    "time_taken": "Das hat {seconds} Sekunden gedauert.",
    "translation_label": "Übersetzung",
    "translation_empty": "Das Modell hat zu diesem Video nichts geschrieben.",
    "nothing_signed": "In diesem Video wurde nichts Gebärdetes gefunden.",
    "sure": "Das Modell ist sicher. Es kann trotzdem falsch sein.",
    "unsure": "Das Modell ist unsicher. Manches kann falsch sein.",
    "very_unsure": (
        "Das Modell ist sehr unsicher. Das ist wahrscheinlich falsch: Vielleicht kennt es diese Gebärden, die Art "
        "dieser Person zu gebärden oder solche Videos nicht."
    ),
    "unfamiliar": (
        "Dieses Video sieht anders aus als die, mit denen das Modell gelernt hat. Das ist wahrscheinlich falsch: "
        "Vielleicht kennt es diese Gebärden, die Art dieser Person zu gebärden oder solche Videos nicht."
    ),
    "unmeasured": (
        "Das Modell ist sehr unsicher. Der Wert dieses Satzes ist niedriger als alle, die gemessen wurden. Darum weiß "
        "niemand, wie viele solche Sätze richtig sind. Das ist wahrscheinlich falsch."
    ),
    "sureness_of_all": "Das Modell ist bei {unsure} von {total} Sätzen unsicher. Vor ihnen steht {mark}.",
    "sureness_share": "Von 100 Sätzen wie diesem waren etwa {number} richtig.",
    "sureness_share_of_surest": (
        "Der Wert dieses Satzes ist höher als alle, die gemessen wurden. Von 100 Sätzen mit den höchsten Werten waren "
        "etwa {number} richtig."
    ),
    "sureness_unknown": "Niemand hat gemessen, wie oft dieses Modell richtig liegt. Darum steht es hier nicht.",
    "taken_for_left_handed": "Übersetzt wie mit der linken Hand gebärdet: Das Modell hat es im Spiegel gesehen.",
    "taken_for_right_handed": "Übersetzt wie mit der rechten Hand gebärdet.",
    "alternatives_heading": "Andere mögliche Übersetzungen",
    "alternatives_info": "Andere Sätze, an die das Modell gedacht hat. Der beste steht oben.",
    "alternatives_text": "Satz",
    "alternatives_score": "Wert",
    "alternatives_score_info": "Je näher an 0, desto besser findet das Modell den Satz.",
    "translations_number": "Übersetzung {number} von {total}",
    "translations_different": "Verschiedene Sätze: {number} von {total}. Die anderen waren gleich.",
    "translations_sureness": (
        "Wie oft das Modell richtig liegt, wurde bei seinen ersten Übersetzungen gemessen. Bei den anderen können die "
        "Zahlen zu hoch sein."
    ),
    "translations_first": ("Die Untertitel und das Bild, wohin das Modell gesehen hat, gehören zu Übersetzung 1."),
    "share_button": "Den Satz weitergeben, ohne das Video",
    "share_limit": "Von einer Maschine aus der Gebärdensprache übersetzt. Es kann falsch sein.",
    "share_copied": "Kopiert. Es kann jetzt überall eingefügt werden.",
    "share_failed": "Der Browser erlaubt es nicht. Den Satz bitte markieren und kopieren.",
    "report_link": "Das ist falsch: den Autoren des Modells Bescheid sagen",
    "report_info": (
        "Eine Seite von Hugging Face geht auf. Dort kann man schreiben, was gebärdet wurde. Andere können es lesen. "
        "Der Satz wird mitgegeben, das Video nicht."
    ),
    "report_title": "Eine falsche Übersetzung",
    "report_said": "Das Modell schrieb:",
    "report_signed": "Gebärdet wurde:",
    "captions_heading": "Untertitel",
    "captions_info": "Die Sätze als Untertitel für ein Video. Bitte prüfen, bevor andere sie sehen.",
    "download_txt": "Text herunterladen",
    "download_srt": "Untertitel herunterladen (SRT)",
    "download_vtt": "Untertitel herunterladen (VTT)",
    "timeline_heading": "Wohin das Modell gesehen hat",
    "timeline_intro": "Ein Wort wählen: Das Video springt dorthin, wo das Modell am meisten hingesehen hat.",
    "timeline_intro_long": "Eine Zeit wählen: Das Video springt dorthin.",
    "timeline_legend_darkness": "Je kräftiger die Farbe, desto mehr hat das Modell beim Schreiben dorthin gesehen.",
    "timeline_legend_interval": "Der Kasten geht von der ersten bis zur letzten Sekunde dieser Stelle.",
    "timeline_legend_peak": "Der Strich zeigt, wohin es am meisten gesehen hat.",
    "timeline_legend_unsure": "Gepunktete Linie und Fragezeichen: Bei diesem Wort ist das Modell unsicher.",
    "timeline_legend_limit": "Die Gebärde für dieses Wort kann an einer anderen Stelle sein.",
    "timeline_no_words": "Es gibt keine Wörter zu zeigen.",
    "timeline_too_long": "Das Video ist zu lang. Darum fehlen ab hier die Bilder. Bitte ein kürzeres Stück wählen.",
    "timeline_details": "Wörter dieses Satzes",
    "timeline_word": "{word}, angesehen von {start} bis {end} {unit}, am meisten bei {peak}; dorthin springen",
    "timeline_unsure_word": (
        "{word}, unsicher, angesehen von {start} bis {end} {unit}, am meisten bei {peak}; dorthin springen"
    ),
    "timeline_piece": "{start} bis {end}; dorthin springen",
    "timeline_jumped": "Das Video ist jetzt bei {time}.",
    "timeline_repeated": "Das Video wiederholt die Stelle um {time}.",
    "unit_seconds": "Sekunden",
    "unit_minutes": "Minuten",
    "table_heading": "Als Tabelle",
    "table_times": "Zeiten in {unit}",
    "table_word": "Wort",
    "table_start": "Von",
    "table_end": "Bis",
    "table_peak": "Am meisten bei",
    "table_sure": "Wie sicher",
    "table_unsure_word": "unsicher",
    "model_heading": "Über dieses Modell",
    "model_sign_language": "Gebärdensprache",
    "model_spoken_language": "Es schreibt",
    "model_data": "Es hat gelernt mit",
    "model_clips": "{number} Videos mit je einem Satz",
    "model_scores": "Wie gut es ist",
    "model_score": "{name}: {value} von 100, bei {number} Videos aus „{dataset}“ ({split})",
    "model_score_without_number": "{name}: {value} von 100, bei „{dataset}“ ({split})",
    "model_score_between": "wahrscheinlich zwischen {low} und {high}",
    "model_scores_meaning": (
        "0 bis 100; wie viel vom Wortlaut mit einem Satz übereinstimmt, den ein Mensch geschrieben hat. Es sagt nicht, "
        "wie viele Sätze richtig sind. Bei anderen Videos ist es weniger."
    ),
    "split_test": "Videos, mit denen es nicht gelernt hat",
    "split_validation": "Videos, nach denen die beste Fassung gewählt wurde; der Wert kann zu hoch sein",
    "split_train": "Videos, mit denen es gelernt hat; der Wert ist zu hoch",
    "split_unknown": "die Karte sagt nicht, welcher Teil",
    "model_limits": "Was es nicht kann",
    "model_limits_from_card": "Aus der Karte des Modells, meist auf Englisch.",
    "model_no_registered_code": (
        "Diese Gebärdensprache hat keinen eingetragenen Code. Vielleicht wurde sie erfunden, um das Programm zu "
        "prüfen: Dann sagen die Werte nichts über eine echte Gebärdensprache."
    ),
    "model_license": "Lizenz",
    "model_card_link": "Die ganze Karte des Modells",
    "model_name": "Modell",
    "model_no_card": "Es gibt keine lesbare Karte zu diesem Modell. Wer es gemacht hat, sagt nichts darüber.",
    "model_unknown": "Die Karte des Modells sagt es nicht, oder nicht in einer Form, die hier lesbar ist.",
    "error_no_video": "Es gibt noch kein Video. Bitte erst eines hochladen oder aufnehmen.",
    "error_no_poses": "Es gibt noch keine Posen. Bitte erst eine Datei hochladen.",
    "error_no_pose_file": (
        "Diese Datei enthält keine Posen. Bitte eine wählen, die auf .pose, .npz oder .safetensors endet."
    ),
    "error_no_pose_or_video_file": (
        "Diese Datei ist weder ein Video noch enthält sie Posen. Bitte eine Videodatei wählen, zum Beispiel MP4, oder "
        "eine, die auf .pose, .npz oder .safetensors endet."
    ),
    "error_damaged_poses": (
        "Die Posen in dieser Datei sind nicht lesbar, oder niemand ist darin zu sehen. Bitte noch einmal herstellen."
    ),
    "error_no_times": (
        "Diese Datei sagt nicht, wie viele Bilder sie in der Sekunde hat. Bitte mit dieser Zahl noch einmal "
        "speichern, wie sie in .pose-Dateien steht."
    ),
    "error_no_video_file": "Diese Datei ist kein Video. Bitte eine Videodatei wählen, zum Beispiel MP4, WebM oder MOV.",
    "error_no_picture": "Diese Datei hat kein Bild, nur Ton. Bitte eine Datei mit Bild wählen.",
    "error_unknown_format": (
        "Dieses Video hat ein Format, das hier nicht gelesen werden kann. Bitte als MP4 (H.264) oder WebM speichern."
    ),
    "error_nothing_shown": "In diesem Teil des Videos gibt es kein Bild. Bitte einen anderen Teil wählen.",
    "error_damaged": (
        "Dieses Video ist beschädigt und nicht lesbar. Bitte neu aufnehmen oder das Video als MP4 speichern."
    ),
    "error_empty_file": "Diese Datei ist leer. Bitte eine andere wählen.",
    "error_too_long": (
        "Dieses Stück ist zu lang: {seconds} Sekunden. Erlaubt sind bis zu {limit} Sekunden. Bitte ein kürzeres Stück "
        "wählen."
    ),
    "error_too_long_for_one": (
        "Das ist zu lang für einen Satz: {seconds} Sekunden. Erlaubt sind bis zu {limit} Sekunden. Bitte ein kürzeres "
        "Stück wählen oder „Langes Video“ ankreuzen."
    ),
    "error_too_large_picture": (
        "Das Bild dieses Videos ist zu groß: {width} x {height}. Erlaubt sind bis zu {limit_width} x {limit_height}."
    ),
    "error_too_short": "Das ist zu kurz zum Übersetzen. Bitte ein längeres Stück wählen.",
    "error_took_too_long": "Das hat zu lange gedauert und wurde gestoppt. Bitte ein kürzeres Stück wählen.",
    "error_too_large_file": "Diese Datei ist zu groß. Erlaubt sind bis zu {megabytes} MB. Bitte eine kleinere wählen.",
    "error_too_many_of_yours": (
        "Von hier werden schon {limit} Videos übersetzt oder warten darauf. Bitte warten, bis eines fertig ist, und es "
        "dann noch einmal versuchen."
    ),
    "error_too_many": "Hier warten gerade zu viele Videos. Bitte in ein paar Minuten noch einmal versuchen.",
    "error_ours": (
        "Bei uns ist etwas schiefgegangen. Bitte noch einmal versuchen. Wenn es wieder passiert: bitte dem Menschen "
        "sagen, dem diese Seite gehört."
    ),
    "error_times": "„Von Sekunde“ ({start}) muss kleiner sein als „Bis Sekunde“ ({end}).",
    "error_times_outside": (
        "„Von Sekunde“ ist {start}, aber das Video endet bei {duration}. Bitte eine frühere Sekunde wählen."
    ),
    "live_error_camera": (
        "Der Browser gibt keine Kamera frei. Bitte dieser Seite die Kamera erlauben und andere Programme schließen, "
        "die sie benutzen."
    ),
    "live_error_connection": "Die Verbindung ist weg. Bitte die Kamera noch einmal einschalten.",
    "live_error_full": "Hier werden gerade {limit} Kameras übersetzt. Bitte in ein paar Minuten noch einmal versuchen.",
    "live_error_no_pictures": "Seit {limit} Sekunden kommt kein Bild der Kamera. Bitte noch einmal einschalten.",
    "live_error_other_page": "Eine andere Seite hat nach Untertiteln gefragt. Bitte diese Seite selbst öffnen.",
    "live_error_picture": "Das Bild der Kamera kann nicht gelesen werden. Bitte einen anderen Browser versuchen.",
    "live_error_too_long": "{limit} Minuten sind vorbei. Bitte die Kamera noch einmal einschalten.",
    "error_address": "Diese Seite öffnet keine Adressen im Netz. Bitte ein Video hochladen oder aufnehmen.",
    "api_heading": "Für Programme",
    "api_info": "Diese Seite hat auch eine API. Sie geht mit Python und `gradio_client` oder mit `curl`.",
    "api_translate": (
        "`video`, `start` und `end` in Sekunden (0: bis zum Ende), `is_long` für mehr als einen Satz, `language` für "
        "die Sprache der Fehlermeldungen (`en` oder `de`), `num_translations` von 1 bis 5, `left_handed` (`no`, `yes` "
        "oder `auto` zum Herausfinden)"
    ),
    "api_about": "was auf der Karte des Modells steht",
    "api_errors": "Zu einem Video, das nicht übersetzt werden kann, kommt derselbe Satz wie auf dieser Seite.",
}

TEXTS = {"en": ENGLISH, "de": GERMAN}
DECIMAL_MARKS = {"en": ".", "de": ","}


def decimal(value: float, language: str, places: int = 1) -> str:
    """`0.25`, in German `0,25`."""
    return f"{value:.{places}f}".replace(".", DECIMAL_MARKS[language])


def language_from_header(header: str | None) -> str:
    """`"en"` or `"de"`: the one an Accept-Language header likes better, or names first; `"en"` if it takes neither."""
    qualities = {}
    for part in (header or "").split(","):
        tag, *parameters = part.strip().lower().split(";")
        code = tag.strip().split("-")[0]
        if code in LANGUAGES:
            qualities[code] = max(qualities.get(code, 0.0), _quality(parameters))
    best = max(qualities, key=qualities.get, default=DEFAULT_LANGUAGE)
    return best if qualities.get(best) else DEFAULT_LANGUAGE


def _quality(parameters: list[str]) -> float:
    """`["q=0.8"]` -> 0.8; 1 without a `q`, 0 for one that is not a number from 0 to 1."""
    values = [value.strip() for name, _, value in (text.partition("=") for text in parameters) if name.strip() == "q"]
    if not values:
        return 1.0
    is_number = re.fullmatch(r"0(\.[0-9]*)?|1(\.0*)?", values[0])
    return float(values[0]) if is_number else 0.0
