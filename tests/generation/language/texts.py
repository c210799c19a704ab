"""One short text on compost in each of ten languages, and how its sentences end."""

from __future__ import annotations

TEXTS = {
    "zh": "堆肥如果有氨味，说明氮太多了。应该加入更多的干叶子和稻草！"
    "怎样才能知道堆肥已经成熟？成熟的堆肥闻起来像森林里的泥土。",
    "ja": "堆肥がアンモニア臭い場合は、窒素が多すぎます。枯れ葉やわらを加えて混ぜてください！"
    "堆肥が熟したかどうかはどうすれば分かりますか？熟した堆肥は森の土のような匂いがします。",
    "th": "ถ้าปุ๋ยหมักมีกลิ่นแอมโมเนีย แสดงว่ามีไนโตรเจนมากเกินไป ควรเติมใบไม้แห้งและฟางข้าวเพิ่ม "
    "ปุ๋ยหมักที่สุกแล้วจะมีกลิ่นเหมือนดินในป่า",
    "ko": "퇴비에서 암모니아 냄새가 나면 질소가 너무 많은 것입니다. 마른 잎과 짚을 더 넣어야 합니다! "
    "퇴비가 다 익었는지 어떻게 알 수 있습니까? 잘 익은 퇴비는 숲의 흙 냄새가 납니다.",
    "de": "Ein Komposthaufen, der nach Ammoniak riecht, enthält zu viel Stickstoff. Man sollte z. B. trockenes Laub "
    "oder Stroh zugeben! Woran erkennt man, dass er reif ist? Reifer Kompost riecht nach Waldboden.",
    "fr": "Un tas de compost qui sent l'ammoniac contient trop d'azote. Il faut y ajouter p. ex. des feuilles sèches ! "
    "Comment savoir si le compost est mûr ? Le compost mûr sent la terre de forêt.",
    "ru": "Компостная куча, которая пахнет аммиаком, содержит слишком много азота. "
    "Добавьте в неё сухие листья и солому! Как узнать, что компост созрел? Зрелый компост пахнет лесной землёй.",
    "ar": "كومة السماد التي تفوح منها رائحة الأمونيا تحتوي على الكثير من النيتروجين. "
    "أضف المزيد من الأوراق الجافة والقش. كيف تعرف أن السماد قد نضج؟ السماد الناضج له رائحة تربة الغابة.",
    "hi": "जिस खाद के ढेर से अमोनिया की गंध आती है, उसमें नाइट्रोजन बहुत अधिक होती है। "
    "उसमें सूखी पत्तियाँ और पुआल मिलाएँ। कैसे पता चले कि खाद पक गई है? पकी हुई खाद जंगल की मिट्टी जैसी महकती है।",
    "en": "A compost heap that smells of ammonia has too much nitrogen. Dry leaves or straw should be added to it! "
    "How do you know that it is ripe? Ripe compost smells like the ground of a forest.",
}  # fmt: skip
