#!/bin/sh
# Download STS-B and, if asked, STS12-16 and SICK, in their original files.
#
#   sh download_dataset.sh              STS benchmark (0.4 MB)
#   sh download_dataset.sh sts          STS12-16 (1.9 MB)
#   sh download_dataset.sh sick         SICK (0.2 MB)
#   sh download_dataset.sh all          the three of them
#
#   DATASET=DIR    where to put them (default: dataset); give train.py paths.dataset=DIR too
#   STS_URL=URL    in place of http://ixa2.si.ehu.eus/stswiki/images
#   SICK_URL=URL   in place of http://alt.qcri.org/semeval2014/task1/data/uploads
#   BASE_URL=URL   a mirror of both: URL/stswiki/images/... and URL/semeval2014/...
#
# A set is unpacked aside, held against the row counts and the sha256 of the originals, and then moved to its place by
# one rename: what is under its final name is whole. A set that is there is not fetched again. An interrupted download
# begins again for the archive it was at.
#
# Needs a POSIX shell, curl or wget, tar, and unzip or python3. The texts have terms of their own (see the readme files;
# SICK is CC BY-NC-SA 3.0, not for commercial use).
set -eu

dataset=${DATASET:-dataset}
sts=${STS_URL:-${BASE_URL:-http://ixa2.si.ehu.eus}/stswiki/images}
sick=${SICK_URL:-${BASE_URL:-http://alt.qcri.org}/semeval2014/task1/data/uploads}
work=$dataset/.download

stop() {
    printf '%s\n' "download_dataset.sh: $1" >&2
    exit 1
}

fetch() { # URL FILE
    printf '%s\n' "get  $1"
    if command -v curl >/dev/null 2>&1; then
        if [ -t 2 ]; then bar=--progress-bar; else bar=--silent; fi
        curl --fail --location --show-error --retry 3 $bar --output "$2" "$1" || failed=1
    elif command -v wget >/dev/null 2>&1; then
        wget --quiet --tries=3 --output-document="$2" "$1" || failed=1
    else
        stop "neither curl nor wget is installed"
    fi
    [ -z "${failed:-}" ] || stop "cannot fetch $1; run it again, or set BASE_URL to a mirror"
}

unpack() { # ARCHIVE DIR
    mkdir "$2"
    if [ "${1%.tar.gz}" != "$1" ]; then
        tar -xzf "$1" -C "$2" || failed=1
    elif command -v unzip >/dev/null 2>&1; then
        unzip -q -o "$1" -d "$2" || failed=1
    elif command -v python3 >/dev/null 2>&1; then
        python3 -m zipfile -e "$1" "$2" || failed=1
    else
        stop "neither unzip nor python3 is installed"
    fi
    [ -z "${failed:-}" ] || stop "$1 is no whole archive; run it again"
    # A link may lead anywhere, and what is done to it is done there.
    [ -z "$(find "$2" ! -type f ! -type d)" ] || stop "$1 holds links; is the address right?"
}

sha256() { # of standard input
    if command -v sha256sum >/dev/null 2>&1; then sha256sum; else shasum -a 256; fi | cut -d ' ' -f 1
}

check() { # DIR LINES SHA256 FILE...: lines in all the files, and the digest of the files one after the other
    where=$1 lines=$2 digest=$3
    shift 3
    for file; do
        [ -f "$where/$file" ] || stop "$file is missing from the archive"
    done
    found=$(cd "$where" && cat "$@" | wc -l | tr -d ' ')
    [ "$found" = "$lines" ] || stop "$where has $found lines where $lines belong; run it again"
    found=$(cd "$where" && cat "$@" | sha256)
    [ "$found" = "$digest" ] || stop "$where has sha256 $found where $digest belongs; is the address right?"
}

publish() { # DIR FINAL
    mkdir -p "$(dirname "$2")"
    # A folder that is there although the set was found incomplete is moved aside, never merged into.
    if [ -e "$2" ]; then mv "$2" "$work/old.$(basename "$2")"; fi
    mv "$1" "$2"
    printf '%s\n' "done $2"
}

stsbenchmark() {
    final=$dataset/stsbenchmark
    if [ -f "$final/sts-train.csv" ] && [ -f "$final/sts-dev.csv" ] && [ -f "$final/sts-test.csv" ]; then
        printf '%s\n' "have $final"
        return
    fi
    fetch "$sts/4/48/Stsbenchmark.tar.gz" "$work/stsb.tar.gz"
    unpack "$work/stsb.tar.gz" "$work/stsb"
    rm -f "$work/stsb/stsbenchmark/correlation.pl"
    check "$work/stsb/stsbenchmark" 8628 59d04ef5a9b42ffa4b88f49433731d290db8afdd5b5e3a0d72e85d82c955feda \
        sts-train.csv sts-dev.csv sts-test.csv
    publish "$work/stsb/stsbenchmark" "$final"
}

sts_year() { # YEAR PATH LINES SHA256 SUBSET...
    final=$dataset/STS/STS$1-en-test
    year=$1 path=$2 lines=$3 digest=$4
    shift 4
    whole=yes
    for subset; do
        [ -f "$final/STS.input.$subset.txt" ] && [ -f "$final/STS.gs.$subset.txt" ] || whole=
    done
    if [ "$whole" ]; then
        printf '%s\n' "have $final"
        return
    fi
    fetch "$sts/$path" "$work/sts$year.zip"
    unpack "$work/sts$year.zip" "$work/sts$year"
    mkdir "$work/STS$year"
    names=
    for subset; do
        for part in input gs; do
            # The archives name their folder, and in 2016 their files, by the year; the layout here is SentEval's.
            source=$(find "$work/sts$year" -type f -name "STS*.$part.$subset.txt")
            [ -f "$source" ] || stop "STS.$part.$subset.txt is missing from $path"
            mv "$source" "$work/STS$year/STS.$part.$subset.txt"
            names="$names STS.$part.$subset.txt"
        done
    done
    # shellcheck disable=SC2086  # the names hold no blanks
    check "$work/STS$year" "$lines" "$digest" $names
    publish "$work/STS$year" "$final"
}

sts_years() {
    sts_year 12 4/40/STS2012-en-test.zip 6216 2a150c2eaf0a735916e47a6eba4d508486447629e03816a81eac5891f270d4f0 \
        MSRpar MSRvid SMTeuroparl surprise.OnWN surprise.SMTnews
    sts_year 13 2/2f/STS2013-en-test.zip 3000 cde003dddcc2626d5af3bdfdc11d5e6fca9b2f7f6483c3a06a2ad89eb7e3d51a \
        FNWN headlines OnWN
    sts_year 14 8/8c/STS2014-en-test.zip 7500 9428305ae1c9a4676fc903f0f7251d9885866eee8480e0427e671e2a75e205c1 \
        deft-forum deft-news headlines images OnWN tweet-news
    sts_year 15 d/da/STS2015-en-test.zip 17000 5d1c0aca8fce147bd754213de45f9a528f09db7f0a977304f8b045d8e091d08f \
        answers-forums answers-students belief headlines images
    sts_year 16 9/98/STS2016-en-test.zip 18366 ecf107761c2d5f67ae6fa44aa13e2d53cc73dcaf5d97c6b94d3e5b92d493e528 \
        answer-answer headlines plagiarism postediting question-question
}

sick_parts() {
    final=$dataset/SICK
    if [ -f "$final/SICK_train.txt" ] && [ -f "$final/SICK_trial.txt" ] && [ -f "$final/SICK_test_annotated.txt" ]; then
        printf '%s\n' "have $final"
        return
    fi
    mkdir "$work/SICK"
    for part in train trial test_annotated; do
        fetch "$sick/sick_$part.zip" "$work/sick_$part.zip"
        unpack "$work/sick_$part.zip" "$work/sick_$part"
        mv "$work/sick_$part/SICK_$part.txt" "$work/SICK/" || stop "SICK_$part.txt is missing from sick_$part.zip"
    done
    check "$work/SICK" 9930 5e923b70b6678cdc4104281fc133d55a8e61c309ca418d352028b5930bf48343 \
        SICK_train.txt SICK_trial.txt SICK_test_annotated.txt
    publish "$work/SICK" "$final"
}

case ${1:-stsb} in
    stsb | sts | sick | all) ;;
    *) stop "'$1' is none of stsb, sts, sick, all" ;;
esac
mkdir -p "$dataset"
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
case ${1:-stsb} in stsb | all) stsbenchmark ;; esac
case ${1:-stsb} in sts | all) sts_years ;; esac
case ${1:-stsb} in sick | all) sick_parts ;; esac
