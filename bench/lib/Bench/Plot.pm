# Draws plots as SVG, with gnuplot.
package Bench::Plot;

use strict;
use warnings;

use Exporter 'import';
use File::Path qw(make_path);

our @EXPORT_OK = qw(plot);

my $FOLDER = $ENV{BENCH_PLOTS} || 'build/bench';
# Colours that differ with every kind of colour blindness (Okabe and Ito).
my @COLOURS = qw(0072b2 d55e00 009e73 cc79a7 e69f00 56b4e9);

# Draws NAME.svg, and returns the Markdown line that shows it. What: title, x and y (the names of the axes),
# log (1: a logarithmic x axis, which may start at 0; 'xy': the y axis too), most (a budget, drawn as a
# horizontal line) and series, each a hash of name and points. A point is [x, y] or [x, y, low, high].
sub plot {
    my ($name, %what) = @_;
    make_path($FOLDER);
    my $log  = $what{log} // '';
    my @plot = map {
        my ($series, $colour) = ($what{series}[$_], $COLOURS[ $_ % @COLOURS ]);
        my $look = "lc rgb '#$colour' title " . quoted($series->{name});
        my $has_range = @{ $series->{points}[0] } > 2;
        ($has_range ? "\$data$_ using 1:2:3:4 with yerrorbars pt 7 ps 0.6 lc rgb '#$colour' notitle" : (),
            "\$data$_ using 1:2 with linespoints pt 7 ps 0.6 lw 2 $look");
    } 0 .. $#{ $what{series} };
    push @plot, "$what{most} with lines dt 2 lc rgb '#666666' title 'budget'" if defined $what{most};

    my %is_x = map { $_->[0] => 1 } map { @{ $_->{points} } } @{ $what{series} };
    my $script = join "\n",
        "set terminal svg size 640,340 dynamic background '#ffffff' font 'sans-serif,12'",
        'set output ' . quoted("$FOLDER/$name.svg"),
        'set title ' . quoted($what{title}),
        'set xlabel ' . quoted($what{x}), 'set ylabel ' . quoted($what{y}),
        'set key below', 'set rmargin 4', 'set grid ytics lc rgb "#dddddd"', 'set border 3', 'set tics nomirror',
        'set offsets graph 0.02, graph 0.02, graph 0.1, 0',
        # A logarithmic axis that includes 0.
        $log ? 'set nonlinear x via log10(1 + x) inverse 10**x - 1' : (),
        $log eq 'xy' ? 'set logscale y' : 'set yrange [0:*]',
        'set xtics (' . join(', ', map { quoted(grouped($_)) . " $_" } sort { $a <=> $b } keys %is_x) . ')',
        (map { data($_, $what{series}[$_]{points}) } 0 .. $#{ $what{series} }),
        'plot ' . join(', ', @plot), '';
    open my $gnuplot, '|-', 'gnuplot' or die "cannot run gnuplot: $!\n";
    print $gnuplot $script;
    close $gnuplot or die "gnuplot does not draw $name\n";
    return "![$what{title}]($FOLDER/$name.svg)\n";
}

sub data {
    my ($number, $points) = @_;
    return join "\n", "\$data$number << END", (map { join ' ', @$_ } @$points), 'END';
}

sub quoted { return "'" . $_[0] =~ s/'/''/gr . "'" }

# Formats a number with separators between thousands.
sub grouped { return scalar reverse join ',', unpack '(A3)*', reverse $_[0] }

1;
